"""For the tests of those who write tasks; the fixtures are in :mod:`conductor.testing.plugin`.

``run_task``   one handler in the test's process, without a database
``drain``      everything that is due, in real child processes
``FakeClock``  a clock that stands still until the test moves it
"""

from __future__ import annotations

from conductor.testing.clock import FakeClock
from conductor.testing.draining import DrainFailed, Report, drain
from conductor.testing.handler import Stopped, run_task, run_task_async

__all__ = ["DrainFailed", "FakeClock", "Report", "Stopped", "drain", "run_task", "run_task_async"]
