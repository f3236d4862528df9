"""What the supervisor decides by: pure functions over values.

Nothing here opens a socket, a database or a file, reads a clock or starts a process. Whoever calls passes in
the time and, where chance plays a part, the source of chance.

``lifecycle``   every legal move of an execution
``verdict``     the answer to "may I continue?"
``windows``     when a task may run
``cron``        when a schedule fires
``zones``       time zones as pieces of constant offset; windows and cron rest on it
``retry``       how long to wait before the next attempt
``blame``       who was running in a runner that died
``admission``   what to claim next
"""
