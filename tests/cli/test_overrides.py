"""Operators win over code."""

from __future__ import annotations

import pytest
from msgspec import structs

from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import KeyLimitSpec, Manifest, RateSpec, ScheduleSpec, TaskSpec, WindowSpec
from conductor_supervisor.overrides import effective
from conductor_supervisor.settings import ConcurrencySetting, Settings, TaskOverride

RESIZE = TaskSpec("resize", windows=(WindowSpec("20:00", "06:00", tz="UTC"),), concurrency=3, timeout=60.0)
APP = Manifest("shop:app", (RESIZE, TaskSpec("mail")))


def resize(override: TaskOverride) -> TaskSpec:
    """Return the task as it runs under this override."""
    return effective(APP, Settings(tasks={"resize": override}))[0]


def test_what_nobody_overrides_stays_as_in_the_code() -> None:
    """No settings, no change."""
    assert effective(APP, Settings()) == APP.tasks
    assert resize(TaskOverride()) == RESIZE


def test_only_what_is_set_is_replaced() -> None:
    """Each field by itself."""
    assert resize(TaskOverride(max_attempts=9)) == structs.replace(RESIZE, max_attempts=9)
    assert resize(TaskOverride(keep_failed=None)) == structs.replace(RESIZE, keep_failed=None)


def test_a_limit_can_be_removed() -> None:
    """None and an empty tuple are values, not "unset"."""
    free = resize(TaskOverride(concurrency=ConcurrencySetting(), timeout=None, windows=()))
    assert (free.concurrency, free.timeout, free.windows) == (None, None, ())


def test_a_limit_by_key_takes_the_place_of_the_plain_one() -> None:
    """What operators say of concurrency is all that is said of it."""
    keyed = resize(TaskOverride(concurrency=ConcurrencySetting(None, KeyLimitSpec(2, "tenant"))))
    assert (keyed.concurrency, keyed.concurrency_by_key) == (None, KeyLimitSpec(2, "tenant"))
    assert resize(TaskOverride(rate=RateSpec(5, 1.0))).rate == RateSpec(5, 1.0)


def test_a_schedule_whose_payload_gives_no_usable_key_is_refused() -> None:
    """At the start, before any firing."""
    nightly = ScheduleSpec("nightly", "0 2 * * *", payload=b'{"tenant": [1]}')
    app = Manifest("shop:app", (TaskSpec("mail", schedules=(nightly,)),))
    settings = Settings(
        tasks={"mail": TaskOverride(concurrency=ConcurrencySetting(by_key=KeyLimitSpec(2, "tenant")))}
    )
    with pytest.raises(UsageError, match=r"task mail: schedule nightly: payload\.tenant: expected text"):
        effective(app, settings)


def test_a_task_that_the_app_has_not_is_refused_with_near_names() -> None:
    """A typo must not be a silent nothing."""
    settings = Settings(tasks={"rezise": TaskOverride()}, config="conductor.toml")
    with pytest.raises(UsageError) as caught:
        effective(APP, settings)
    assert str(caught.value) == (
        "conductor.toml: [tasks.rezise]: the app shop:app has no task 'rezise'; did you mean resize?"
    )


def test_windows_and_schedules_get_the_zone_that_they_do_not_name() -> None:
    """Their own zone, else the operators', else the app's."""
    task = TaskSpec(
        "night",
        windows=(WindowSpec("20:00", "06:00"), WindowSpec("08:00", "09:00", tz="Asia/Tokyo")),
        schedules=(ScheduleSpec("cron", "0 2 * * *"),),
    )
    app = Manifest("shop:app", (task,), timezone="Europe/Paris")
    (by_app,) = effective(app, Settings())
    (by_operator,) = effective(app, Settings(timezone="America/Lima"))
    assert [window.tz for window in by_app.windows] == ["Europe/Paris", "Asia/Tokyo"]
    assert by_app.schedules[0].tz == "Europe/Paris"
    assert [window.tz for window in by_operator.windows] == ["America/Lima", "Asia/Tokyo"]
    assert by_operator.schedules[0].tz == "America/Lima"
