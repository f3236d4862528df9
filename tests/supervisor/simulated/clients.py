"""Clients, operators and mishaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conductor_supervisor.store.schema import executions
from simulated.workload import CHAOS, CLOSING, INVOCABLE, unfinished
from simulated.world import SupervisorDied

if TYPE_CHECKING:
    from simulated.world import World

import signal
from collections.abc import Callable
from functools import partial

from sqlalchemy import select

from conductor_protocol.operations import (
    CancelExecution,
    Changed,
    Invoked,
    InvokeMany,
    NewExecution,
    Operation,
    RetryExecution,
)
from conductor_supervisor.store import tasks
from conductor_supervisor.store.perform import perform


class Clients:
    """Everything that comes from outside, each at a moment that chance has chosen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._plan(self.invoke, 8, 25)
        self._plan(self.cancel, 2, 8)
        self._plan(self.retry, 0, 3)
        self._plan(self.pause, 0, 2)
        self._plan(self.leap, 0, 2)
        self._plan(self.kill_runner, 0, 4)
        self._plan(self.terminate, 0, 2)
        self._plan(self.kill_supervisor, 0, 3)
        self._plan(self.refuse_renewals, 0, 2)

        for _ in range(4):
            closing = self._world.random.uniform(CLOSING - 0.3, CLOSING)
            self._world.after(closing, partial(self.invoke, self._world.random.choice(("morning", "grace"))))

    def _plan(self, act: Callable[[], None], least: int, most: int) -> None:
        for _ in range(self._world.random.randint(least, most)):
            self._world.after(self._world.random.uniform(0, CHAOS), act)

    def invoke(self, task: str | None = None) -> None:
        """Create one execution or several."""
        pick = self._world.random.choice
        task = task or pick(INVOCABLE)
        new = NewExecution(
            task=task,
            priority=pick((0, 0, 5)),
            delay=pick((0.0, 0.0, 0.0, 0.3)),
            dedupe_key=pick((None, None, None, f"key of {task}")),
            concurrency_key=pick(("a", "b", "c")) if task == "keyed" else None,
        )
        answer = self._perform(InvokeMany([new] * pick((1, 1, 3, 12))))
        assert isinstance(answer, Invoked)
        self._world.witness.invoked.update(answer.ids)

    def cancel(self) -> None:
        """Cancel any execution that is not finished."""
        if chosen := self._any_unfinished():
            self._world.witness.cancelled.add(chosen)
            self._perform(CancelExecution(chosen))

    def retry(self) -> None:
        """Give an execution new attempts, if it is in a state for it."""
        with self._world.database.reading() as connection:
            over = select(executions.c.id, executions.c.claim).where(
                (executions.c.state == "failed") | (executions.c.state == "cancelled")
            )
            rows = connection.execute(over.order_by(executions.c.id)).all()
        if rows:
            execution, claim = self._world.random.choice(rows)
            answer = self._perform(RetryExecution(execution))
            if isinstance(answer, Changed) and answer.changed:
                self._world.witness.retried[execution] = claim

    def pause(self) -> None:
        """Pause a task or a queue for a while."""
        kind, name = self._world.random.choice((("task", "steps"), ("task", "short"), ("queue", "default")))
        with self._world.database.writing() as connection:
            tasks.pause(connection, kind, name, self._world.clock.now())  # type: ignore[arg-type]
        self._world.after(self._world.random.uniform(0.1, 2.0), partial(self._resume, kind, name))
        self._poke()

    def _resume(self, kind: tasks.Kind, name: str) -> None:
        with self._world.database.writing() as connection:
            tasks.resume(connection, kind, name)
        self._poke()

    def leap(self) -> None:
        """Let the wall clock run ahead of the monotonic one."""
        leap(self._world, self._world.random.choice((30.0, 61.0, 3600.0)))

    def kill_runner(self) -> None:
        """Kill any runner from outside."""
        if self._world.runners:
            self._world.random.choice(self._world.runners).die(-signal.SIGKILL)

    def terminate(self) -> None:
        """Tell the supervisor to stop, and perhaps tell it again."""
        if self._world.supervisor is not None:
            self._world.note("SIGTERM")
            self._world.supervisor.terminate()
            if self._world.chance(0.3):
                self._world.after(0.1, self._world.supervisor.terminate)

    def kill_supervisor(self) -> None:
        """Let the supervisor die."""
        if self._world.supervisor is not None:
            raise SupervisorDied

    def refuse_renewals(self) -> None:
        """Let the database take no renewal of the lease for a while."""
        self._world.note("no renewals")
        self._world.no_renewals_until = self._world.now + self._world.random.uniform(0.2, 1.5)

    def _perform(self, operation: Operation) -> object:
        with self._world.database.writing() as connection:
            answer = perform(connection, operation, self._world.clock.now())
        self._world.note(f"{operation} -> {answer}")
        self._poke()
        return answer

    def _poke(self) -> None:
        if self._world.supervisor is not None:
            self._world.after(self._world.delay(), self._world.supervisor.poked)

    def _any_unfinished(self) -> str | None:
        with self._world.database.reading() as connection:
            ids = sorted(row.id for row in unfinished(connection))
        return self._world.random.choice(ids) if ids else None


def leap(world: World, seconds: float) -> None:
    """Let the wall clock run ahead of the monotonic one."""
    world.note(f"the wall clock leaps by {seconds} s")
    world.witness.leaps.append((world.now, world.leapt))
    world.leapt += seconds
