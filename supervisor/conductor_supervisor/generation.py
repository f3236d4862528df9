"""What the code that runs declares, as the supervisor works by it: made at the start, and at each reload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import TaskSpec
from conductor_protocol.units import Instant
from conductor_supervisor.intake import Schedule
from conductor_supervisor.roster import Pool, Task
from conductor_supervisor.rules.windows import Windows
from conductor_supervisor.settings import Settings


def tasks_of(specs: Sequence[TaskSpec], zone: str, settings: Settings) -> dict[str, Task]:
    """Return the tasks by name, each with its windows and its pool."""
    return {
        spec.name: Task(
            spec,
            Windows(spec.windows, zone),
            Pool(spec.queue if spec.queue in settings.queues else "default", spec.isolation),
        )
        for spec in specs
    }


def pools_of(settings: Settings, tasks: Iterable[Task]) -> dict[Pool, int]:
    """Return how many runners each pool has: every way of isolation that a queue's tasks want has its own.

    :raises UsageError: if no queue has any.
    """
    queues = {"default": settings.runners} | {name: queue.runners for name, queue in settings.queues.items()}
    if not any(queues.values()):
        raise UsageError(
            f"{settings.config or 'settings'}: no queue has runners, so this supervisor would do nothing; "
            "give at least one queue 1 or more"
        )
    wanted = dict.fromkeys(task.pool for task in tasks)
    idle = (Pool(queue) for queue in queues if queue not in {pool.queue for pool in wanted})
    return {pool: queues[pool.queue] for pool in (*wanted, *idle)}


def schedules_of(specs: Sequence[TaskSpec], zone: str, now: Instant) -> list[Schedule]:
    """Return every schedule with its next firing."""
    declared = [(spec, schedule) for spec in specs for schedule in spec.schedules]
    if not declared:
        return []  # and croniter is not imported
    from conductor_supervisor.rules.cron import Cron

    return [
        Schedule(spec.name, s.name, s.payload, cron, s.catch_up, cron.next_firing(now), tz=s.tz)
        for spec, s in declared
        for cron in [Cron(s.expression, s.tz or zone)]
    ]
