"""What crosses between Conductor's processes: messages, values and the rules of their conversation.

This package knows nobody: it opens no socket and no database, and imports neither the supervisor nor the
library that task authors use. Read it in this order:

``units``         how durations and sizes are written
``manifest``      what an app declares: tasks, windows, schedules, retries
``messages``      every message between a runner and the supervisor
``conversation``  which message is legal when
``codec``         messages to bytes and back
``operations``    what a client may ask of the store, and the answers
``recorder``      the flight recorder: a shared page that tells what a dead runner was doing
``birth``         what a runner is told before its first message
``errors``        the root of every error Conductor raises
"""
