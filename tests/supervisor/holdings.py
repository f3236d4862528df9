"""Makers of what the roster holds, for tests that need no database and no process."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

from conductor_protocol.manifest import TaskSpec
from conductor_supervisor.processes.spawn import Child
from conductor_supervisor.roster import Held, Pool, Runner, Slot, Task
from conductor_supervisor.rules.windows import Windows
from conductor_supervisor.store.claiming import Claimed
from conductor_supervisor.writes import Taken

DEFAULT = Pool()

NOW = 1_800_000_000_000_000
"""An instant: 2027-01-15, 08:00 in UTC."""


def task(spec: TaskSpec | None = None, pool: Pool = DEFAULT) -> Task:
    """Return a task as it is run; without a specification, one that says nothing."""
    spec = spec or TaskSpec(name="job")
    return Task(spec, Windows(spec.windows, "UTC"), pool)


def held(execution: str = "a", claim: int = 1, of: Task | None = None, charged: int = 0) -> Held:
    """Return an execution in our hands, claimed a second ago.

    :param charged: attempts charged before.
    """
    of = of or task()
    claimed = Claimed(
        id=execution,
        claim=claim,
        task=of.spec.name,
        attempt=charged,
        event="conductor.invoke",
        scheduled_for=None,
        payload=b"null",
    )
    return Held(Taken(claimed, [], 0), of, charged + 1, NOW - 1_000_000)


def runner(number: int = 1, pool: Pool = DEFAULT) -> Runner:
    """Return a runner that is ready and has no process."""
    child = cast(Child, SimpleNamespace(pid=0))
    return Runner(number, Slot(number, pool), child, heard=time.monotonic(), phase="ready")
