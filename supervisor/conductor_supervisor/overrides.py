"""What the supervisor works by: the app's declarations with the operators' settings laid over them."""

from __future__ import annotations

from msgspec import UNSET, structs

from conductor_protocol.errors import UsageError
from conductor_protocol.limits import key_in
from conductor_protocol.manifest import Manifest, TaskSpec
from conductor_supervisor.readers import suggestion
from conductor_supervisor.settings import Settings, TaskOverride


def effective(manifest: Manifest, settings: Settings) -> tuple[TaskSpec, ...]:
    """Return the app's tasks as they shall run: operators win over code, and every zone is named.

    :raises UsageError: if the settings speak of a task that the app does not have, or what a schedule sends
        gives no key where its task is limited by one.
    """
    names = [task.name for task in manifest.tasks]
    for name in settings.tasks:
        if name not in names:
            raise UsageError(
                f"{settings.config or 'settings'}: [tasks.{name}]: "
                f"the app {manifest.app} has no task {name!r}{suggestion(name, names)}"
            )
    zone = settings.timezone or manifest.timezone
    tasks = tuple(_in_zone(_laid_over(task, settings.tasks.get(task.name)), zone) for task in manifest.tasks)
    for task in tasks:
        _check_keys(task)
    return tasks


def _laid_over(task: TaskSpec, override: TaskOverride | None) -> TaskSpec:
    if override is None:
        return task
    given = {name: value for name, value in structs.asdict(override).items() if value is not UNSET}
    if override.concurrency is not UNSET:
        given |= {
            "concurrency": override.concurrency.plain,
            "concurrency_by_key": override.concurrency.by_key,
        }
    return structs.replace(task, **given)


def _check_keys(task: TaskSpec) -> None:
    if task.concurrency_by_key is None:
        return
    for schedule in task.schedules:
        try:
            key_in(schedule.payload, task.concurrency_by_key.key)
        except UsageError as error:
            raise UsageError(f"task {task.name}: schedule {schedule.name}: {error}") from error


def _in_zone(task: TaskSpec, zone: str) -> TaskSpec:
    return structs.replace(
        task,
        windows=tuple(structs.replace(window, tz=window.tz or zone) for window in task.windows),
        schedules=tuple(structs.replace(schedule, tz=schedule.tz or zone) for schedule in task.schedules),
    )
