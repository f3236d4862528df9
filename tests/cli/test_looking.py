"""``list``, ``show``, ``tasks``, ``schedules``: what people and programs see."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workplace import NOON, SECOND, PretendSupervisor, Workplace

from conductor_protocol.manifest import ChangeSpec, KeyLimitSpec, RateSpec, ScheduleSpec, TaskSpec, WindowSpec
from conductor_protocol.operations import CrashReport, Failure, ProgressView
from conductor_supervisor import control
from conductor_supervisor.store import executions, schedules, steps, tasks
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.steps import NewStep

RED = "\x1b[31m"


@pytest.fixture
def crashed(workplace: Workplace) -> str:
    """An execution that failed once, crashed once, recorded two steps, and is failed."""
    workplace.declare(TaskSpec("resize"))
    (execution,) = workplace.insert("resize")
    first = workplace.claim("resize")
    with workplace.database.writing() as connection:
        for number, name in enumerate(["fetch", f"scale {RED}"]):
            begin = NOON + number * SECOND
            steps.record(
                connection, [NewStep(execution, first.claim, name, b"[1]", begin, begin + SECOND // 2, 1)]
            )
    workplace.end(
        Ending(
            execution=execution,
            claim=first.claim,
            state="ready",
            outcome="failed",
            charged=True,
            started=NOON,
            ended=NOON + 2 * SECOND,
            failure=Failure(type="ValueError", message="too wide", traceback="line 1\nline 2"),
        )
    )
    second = workplace.claim("resize")
    workplace.end(
        Ending(
            execution=execution,
            claim=second.claim,
            state="failed",
            outcome="crashed",
            charged=True,
            started=NOON + 3 * SECOND,
            ended=NOON + 7 * SECOND,
            crash=CrashReport(
                cause='died of SIGSEGV in step "scale", 3.2 s into it',
                signal="SIGSEGV",
                step="scale",
                peak_memory=50 * 1024 * 1024,
                cpu_seconds=1.5,
                stderr="about to scale\n",
                stacks="Fatal Python error: Segmentation fault\n",
            ),
        )
    )
    return execution


def test_show_tells_each_attempt_in_one_sentence(workplace: Workplace, crashed: str) -> None:
    """Failures with their exception, crashes with their cause."""
    shown = workplace.run("show", crashed).stdout
    assert "  attempt 1 failed after 2.0 s: ValueError: too wide\n" in shown
    assert (
        '  attempt 2 died of SIGSEGV in step "scale", 3.2 s into it, 50 MiB peak, 1.5 s of processor time\n'
    ) in shown


def test_show_tells_attempts_of_a_retry_from_those_before(workplace: Workplace, crashed: str) -> None:
    """Their numbers begin anew, as those of the handler and in the log."""
    assert "retried" not in workplace.run("show", crashed).stdout
    workplace.run("retry", crashed)
    workplace.claim("resize")
    lines = workplace.run("show", crashed).stdout.splitlines()
    told = [line.split("attempt ")[-1].split()[0] for line in lines if " attempt" in line]
    assert told == ["1", "2", "retried;", "1"]


def test_labels_stand_apart_from_their_values(workplace: Workplace) -> None:
    """Also the longest."""
    (execution,) = workplace.insert("resize", concurrency_key="acme")
    shown = workplace.run("show", execution).stdout
    assert "concurrency key  acme\n" in shown
    assert "task             resize\n" in shown


def test_show_prints_what_the_dead_runner_left(workplace: Workplace, crashed: str) -> None:
    """Stacks and the last lines of stderr."""
    shown = workplace.run("show", crashed).stdout
    assert "     stacks:\n       Fatal Python error: Segmentation fault\n" in shown
    assert "     stderr:\n       about to scale\n" in shown
    assert "stdout" not in shown


def test_show_lists_steps_with_their_durations(workplace: Workplace, crashed: str) -> None:
    """In recorded order."""
    shown = workplace.run("show", crashed).stdout
    assert "2 steps" in shown
    assert re.search(r"^fetch +500 ms +\S+ \S+ \S+ +1$", shown, re.MULTILINE)


@pytest.fixture
def _in_berlin() -> Iterator[None]:
    """Whoever looks is in Berlin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_in_berlin")
def test_moments_name_their_zone_and_one_step_is_one_step(workplace: Workplace) -> None:
    """Whoever pastes them elsewhere need not guess."""
    (execution,) = workplace.insert("resize")
    claim = workplace.claim("resize").claim
    with workplace.database.writing() as connection:
        steps.record(connection, [NewStep(execution, claim, "fetch", b"1", NOON, NOON, 1)])
    shown = workplace.run("show", execution).stdout
    assert "created          2030-01-01 13:00:00 CET\n" in shown
    assert "\n1 step\n" in shown


def test_what_tasks_write_cannot_steer_the_terminal(workplace: Workplace, crashed: str) -> None:
    """Control characters are spelled out."""
    shown = workplace.run("show", crashed).stdout
    assert "\x1b" not in shown
    assert r"scale \x1b[31m" in shown


def test_show_as_json_has_the_documented_fields(workplace: Workplace, crashed: str) -> None:
    """What programs rely on."""
    shown = workplace.json("show", crashed)
    assert {"id", "task", "state", "payload", "result", "error", "attempts", "steps"} <= shown.keys()
    assert [one["outcome"] for one in shown["attempts"]] == ["failed", "crashed"]
    assert [one["number"] for one in shown["attempts"]] == [1, 2]
    assert shown["attempts"][0]["started"] == "2030-01-01T12:00:00Z"
    assert shown["attempts"][0]["error"]["type"] == "ValueError"
    assert shown["attempts"][1]["crash"]["signal"] == "SIGSEGV"
    assert shown["steps"][0] == {
        "name": "fetch",
        "started": "2030-01-01T12:00:00Z",
        "ended": "2030-01-01T12:00:00.500000Z",
        "attempt": 1,
        "result": [1],
    }


def test_many_steps_are_shown_only_on_request(workplace: Workplace) -> None:
    """The last fifty, unless asked for all."""
    (execution,) = workplace.insert("resize")
    claim = workplace.claim("resize").claim
    with workplace.database.writing() as connection:
        steps.record(connection, [NewStep(execution, claim, f"s{i}", b"1", NOON, NOON, 1) for i in range(60)])
    shown = workplace.run("show", execution).stdout
    assert "60 steps, the last 50; --all-steps" in shown
    assert "s10 " in shown
    assert "s9 " not in shown
    assert "s9 " in workplace.run("show", execution, "--all-steps").stdout


def test_an_execution_may_be_named_by_its_ids_end(workplace: Workplace, crashed: str) -> None:
    """Six characters or more, in any case."""
    assert workplace.json("show", crashed[-6:].upper())["id"] == crashed


@pytest.mark.parametrize(
    ("named", "status", "says"),
    [
        ("abcde", 2, "ID: expected an id or at least the last 6 characters of one, got 'abcde'"),
        ("%%%%%%", 1, "no execution has an id that ends in %%%%%%"),
        ("01999999-9999-7999-9999-999999999999", 1, "no execution 01999999-9999-7999-9999-999999999999"),
    ],
)
def test_an_unknown_id_is_told(
    workplace: Workplace, crashed: str, named: str, status: int, says: str
) -> None:
    """Too short is wrong usage; not there is a failure."""
    assert says in workplace.error("show", named, status=status)


def test_an_ambiguous_end_is_refused(workplace: Workplace) -> None:
    """Rather than show the wrong one."""
    ids = workplace.insert("resize", count=2)
    with workplace.database.writing() as connection:
        table = executions.executions
        for number, execution in enumerate(ids):
            same_end = f"{execution[:20]}{number}{'0' * 15}"
            connection.execute(table.update().where(table.c.id == execution).values(id=same_end))
    assert "several executions have ids that end in 000000" in workplace.error("show", "000000", status=2)


def test_list_is_newest_first_and_aligned_when_piped(workplace: Workplace, crashed: str) -> None:
    """Plain text in columns, whole ids, no colours."""
    (newer,) = workplace.insert("mail")
    heading, first, second = workplace.run("list").stdout.splitlines()
    assert heading.split() == ["ID", "TASK", "STATE", "CREATED", "TOOK", "ATTEMPTS", "NOTE"]
    assert first.split()[:3] == [newer, "mail", "ready"]
    assert second.split()[:3] == [crashed, "resize", "failed"]
    assert first.index("mail") == second.index("resize") == heading.index("TASK")
    assert "\x1b" not in heading + first + second


def test_list_can_be_narrowed_and_paged(workplace: Workplace, crashed: str) -> None:
    """By task, state, number, and from where."""
    mails = workplace.insert("mail", count=3)

    def listed(*arguments: str) -> list[str]:
        return [one["id"] for one in workplace.json("list", *arguments)]

    assert listed("--task", "mail") == mails[::-1]
    assert listed("--state", "failed") == [crashed]
    assert listed("--limit", "1") == [mails[2]]
    assert listed("--before", mails[1]) == [mails[0], crashed]
    assert "Invalid value for '--state'" in workplace.error("list", "--state", "done", status=2)


def test_list_says_what_runs_and_how_far_it_is(workplace: Workplace) -> None:
    """Progress of the running, reason of the waiting."""
    workplace.insert("resize")
    claimed = workplace.claim("resize")
    with workplace.database.writing() as connection:
        executions.set_progress(
            connection, [(claimed.id, claimed.claim, ProgressView(done=41, total=100, message="scaling"))]
        )
    assert "41/100 (41%) scaling" in workplace.run("list").stdout
    workplace.run("invoke", "mail", "--delay", "1h")
    assert re.search(r"mail +scheduled .* delay, due 2030-01-", workplace.run("list").stdout)


def test_list_counts_the_attempts_that_were_made(workplace: Workplace) -> None:
    """A completed execution has had one, though none was charged; in JSON ``attempt`` is what was charged."""
    workplace.insert("resize")

    def shown() -> tuple[str, int]:
        text = workplace.run("list").stdout.splitlines()[1]
        return re.split("  +", text)[-1].split()[-1], workplace.json("list")[0]["attempt"]

    assert shown() == ("0", 0)
    claimed = workplace.claim("resize")
    assert shown() == ("1", 0)
    workplace.end(
        Ending(
            execution=claimed.id,
            claim=claimed.claim,
            state="completed",
            outcome="completed",
            charged=False,
            started=NOON,
            ended=NOON + SECOND,
        )
    )
    assert shown() == ("1", 0)


def test_an_empty_list_of_a_task_that_nobody_declares_says_so(workplace: Workplace) -> None:
    """Its name may be misspelt; what has executions is listed whoever declares it."""
    workplace.declare(TaskSpec("resize"))
    shown = workplace.run("list", "--task", "rezise")
    assert shown.stdout == "no executions\n"
    assert shown.stderr == "the code that ran last has no task 'rezise'; did you mean resize?\n"
    with PretendSupervisor(workplace.runtime, lambda _: control.Health(pid=1, state="running")):
        shown = workplace.run("list", "--task", "rezise")
    assert shown.stderr == "the running code has no task 'rezise'; did you mean resize?\n"


@pytest.mark.parametrize("command", ["tasks", "schedules"])
def test_a_list_of_code_that_does_not_run_says_whose_it_is(workplace: Workplace, command: str) -> None:
    """It may have changed since. What runs, and what no supervisor has declared yet, is nobody else's."""
    code = "from conductor import Conductor\napp = Conductor()\n@app.task\ndef a(event, ctx): ...\n"
    Path("shop.py").write_text(code)
    Path("conductor.toml").write_text('app = "shop:app"\n')
    assert "has declared" not in workplace.run(command).stderr
    workplace.declare(TaskSpec("resize"))
    assert "as the last supervisor that was started has declared" in workplace.run(command).stderr
    with PretendSupervisor(workplace.runtime, lambda _: control.Health(pid=1, state="running")):
        assert workplace.run(command).stderr == ""
    assert workplace.run("list", "--task", "resize").stderr == ""
    workplace.insert("gone")
    assert workplace.run("list", "--task", "gone").stderr == ""


def test_an_empty_list_says_so(workplace: Workplace) -> None:
    """Not an empty table."""
    workplace.run("migrate")
    assert workplace.run("list").stdout == "no executions\n"
    assert workplace.json("list") == []


@pytest.mark.parametrize("command", [["show", "0" * 36], ["cancel", "0" * 36], ["retry", "0" * 36]])
def test_what_needs_an_execution_needs_a_database(workplace: Workplace, command: list[str]) -> None:
    """Looking in the wrong folder must not leave an empty database there."""
    assert "there is no database at" in workplace.error(*command, status=1)
    assert not (workplace.folder / "conductor.db").exists()


def test_where_nothing_has_run_yet_there_is_simply_nothing_to_show(workplace: Workplace) -> None:
    """The answer is empty, the JSON is valid, and a remark beside it says what to do."""
    for command, answer in (("list", "no executions\n"), ("status", "\nno executions\n")):
        shown = workplace.run(command)
        assert shown.stdout.endswith(answer)
        assert "no database yet at" in shown.stderr
        assert "start a supervisor or invoke something first" in shown.stderr
    assert workplace.json("list") == []
    assert workplace.json("status")["counts"] == {}
    assert not (workplace.folder / "conductor.db").exists()


NIGHT = TaskSpec(
    "night",
    queue="slow",
    invocable=False,
    schedules=(ScheduleSpec("cron", "0 2 * * *", tz="Asia/Tokyo"),),
    windows=(WindowSpec("02:00", "04:00", tz="Asia/Tokyo", days=("mon",)),),
    concurrency=2,
    concurrency_by_key=KeyLimitSpec(1, "tenant"),
    rate=RateSpec(100, 60.0),
    timeout=600.0,
)


def test_tasks_lists_what_is_declared(workplace: Workplace) -> None:
    """One line each, with the limits that count."""
    workplace.declare(TaskSpec("resize"), NIGHT)
    with workplace.database.writing() as connection:
        tasks.pause(connection, "queue", "slow", NOON)
    heading, night, resize = workplace.run("tasks").stdout.splitlines()
    assert heading.split()[:4] == ["TASK", "QUEUE", "TRIGGERS", "WINDOW"]
    assert heading.split()[4:] == ["CONCURRENCY", "RATE", "ATTEMPTS", "TIMEOUT", "MEMORY", "ISOLATION"]
    assert re.split("  +", night) == [
        "night", "slow", "cron", "02:00 to 04:00 mon Asia/Tokyo", "2, 1 by tenant", "100/minute", "3", "10m",
        "runner", "paused",
    ]  # fmt: skip
    assert re.split("  +", resize) == ["resize", "default", "invoke", "always", "3", "runner"]
    assert workplace.json("tasks")[0]["concurrency"] == 2
    assert workplace.json("tasks")[0]["concurrency_by_key"] == {"most": 1, "key": "tenant"}
    assert workplace.json("tasks")[0]["rate"] == {"count": 100, "seconds": 60.0}
    assert workplace.json("tasks")[0]["paused"] is True


def test_tasks_names_the_changes_that_make_an_execution(workplace: Workplace) -> None:
    """Each once."""
    contact = ChangeSpec("public", "contact", ("insert", "update"), when="NEW.active")
    again = ChangeSpec("public", "contact", ("insert",), when="NOT NEW.active")
    workplace.declare(TaskSpec("greet", changes=(contact, again)))
    assert "invoke, public.contact.insert, public.contact.update  always" in workplace.run("tasks").stdout
    assert workplace.json("tasks")[0]["events"] == ["public.contact.insert", "public.contact.update"]


def test_without_tasks_it_is_said_what_to_do(workplace: Workplace) -> None:
    """No supervisor has run and no app is configured."""
    assert workplace.run("tasks").stdout.startswith("no tasks: start a supervisor here, or name the app")
    assert workplace.run("schedules").stdout == "no schedules\n"
    assert workplace.json("tasks") == []


def test_schedules_tells_the_next_firing(workplace: Workplace) -> None:
    """In the schedule's zone: two at night in Tokyo is 17:00 UTC."""
    workplace.declare(NIGHT)
    (schedule,) = workplace.json("schedules")
    assert (schedule["task"], schedule["name"], schedule["expression"]) == ("night", "cron", "0 2 * * *")
    assert schedule["next"] == "2030-01-01T17:00:00Z"
    assert "Asia/Tokyo" in workplace.run("schedules").stdout


def test_the_last_firing_of_a_schedule_is_null_before_the_first(workplace: Workplace) -> None:
    """The moment since which firings count is none."""
    workplace.declare(NIGHT)
    assert workplace.json("schedules")[0]["last"] is None
    at = NOON + 5 * 3600 * SECOND
    with workplace.database.writing() as connection:
        schedules.fire(connection, [schedules.Firing("night", "cron", at)], at)
    assert workplace.json("schedules")[0]["last"] == "2030-01-01T17:00:00Z"
