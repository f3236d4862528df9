"""``cancel``, ``retry``, ``pause``, ``resume``, ``status``, ``stop``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from workplace import NOON, Answer, PretendSupervisor, Workplace, status

from conductor_protocol.manifest import KeyLimitSpec, RateSpec, TaskSpec, WindowSpec
from conductor_protocol.operations import Failure
from conductor_protocol.units import moment
from conductor_supervisor import control
from conductor_supervisor.cli import many, render
from conductor_supervisor.errors import NotRunning
from conductor_supervisor.runtime import folder_lock
from conductor_supervisor.store import claiming, leases, tasks
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.leases import Member


def test_a_waiting_execution_is_cancelled_at_once(workplace: Workplace) -> None:
    """And keeps the reason."""
    (execution,) = workplace.insert("resize")
    assert workplace.run("cancel", execution, "--reason", "no need").stdout == f"{execution} is cancelled\n"
    shown = workplace.json("show", execution)
    assert (shown["state"], shown["cancel_reason"]) == ("cancelled", "no need")


def test_a_running_execution_is_asked_to_stop(workplace: Workplace) -> None:
    """It is the supervisor that stops it."""
    (execution,) = workplace.insert("resize")
    workplace.claim("resize")
    assert "is asked to stop" in workplace.run("cancel", execution).stdout
    assert workplace.json("show", execution)["cancel_requested"] is True


def test_what_is_finished_cannot_be_cancelled(workplace: Workplace) -> None:
    """Exit status 1."""
    (execution,) = workplace.insert("resize")
    workplace.run("cancel", execution)
    assert "is cancelled already" in workplace.error("cancel", execution, status=1)


def test_retry_makes_failed_and_cancelled_ones_ready(workplace: Workplace) -> None:
    """Several at once; those that cannot be are told, and the exit status is 1."""
    cancelled, ready = workplace.insert("resize", count=2)
    workplace.run("cancel", cancelled)
    result = workplace.run("retry", cancelled, ready, status=1)
    assert result.stdout == f"{cancelled} is ready again\n"
    assert f"execution {ready} is ready; only a failed or cancelled one can be retried" in result.stderr
    assert "Missing argument" in workplace.error("retry", status=2)


def test_programs_read_the_state_after_the_change(workplace: Workplace) -> None:
    """Or that which did not allow it, with exit status 1."""
    one, other = workplace.insert("resize", count=2)
    assert workplace.json("cancel", one) == {"id": one, "state": "cancelled", "changed": True}
    assert workplace.json("cancel", one, status=1) == {"id": one, "state": "cancelled", "changed": False}
    retried = [
        {"id": one, "state": "ready", "changed": True},
        {"id": other, "state": "ready", "changed": False},
    ]
    assert workplace.json("retry", one, other, status=1) == retried
    workplace.run("cancel", one)
    assert workplace.json("retry", one) == retried[:1]


def test_one_that_is_asked_to_stop_is_running_still(workplace: Workplace) -> None:
    """It ends at its next step."""
    (one,) = workplace.insert("resize")
    workplace.claim("resize")
    assert workplace.json("cancel", one) == {"id": one, "state": "running", "changed": True}


def test_a_mistyped_id_among_others_changes_nothing(workplace: Workplace) -> None:
    """It is told before any is retried."""
    (execution,) = workplace.insert("resize")
    workplace.run("cancel", execution)
    workplace.error("retry", execution, "no-such-id", status=1)
    assert workplace.json("show", execution)["state"] == "cancelled"


# many at once


def counts(workplace: Workplace) -> dict[str, dict[str, int]]:
    """Return how many executions there are by task and state."""
    found: dict[str, dict[str, int]] = workplace.json("status")["counts"]
    return found


def test_all_of_a_task_that_wait_are_cancelled(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; those that run, and those of others, are left."""
    monkeypatch.setattr(many, "BATCH", 2)
    workplace.declare(TaskSpec("mail"), TaskSpec("resize"))
    workplace.insert("mail")
    workplace.insert("resize", count=6)
    workplace.run("invoke", "resize", "--delay", "1h")
    workplace.claim("resize")
    shown = workplace.run("cancel", "--task", "resize", "--reason", "no need", "--yes")
    assert shown.stdout == "cancelled: 6 executions of resize\n"
    assert counts(workplace) == {"mail": {"ready": 1}, "resize": {"running": 1, "cancelled": 6}}
    assert {one["cancel_reason"] for one in workplace.json("list", "--state", "cancelled")} == {"no need"}
    retried = workplace.json("retry", "--task", "resize", "--state", "cancelled", "--yes")
    assert retried == {"task": "resize", "changed": 6, "refused": 0}
    assert counts(workplace)["resize"] == {"ready": 6, "running": 1}


def test_only_those_of_a_state_are_cancelled(workplace: Workplace) -> None:
    """Where one is named."""
    workplace.insert("resize", count=2)
    workplace.run("invoke", "resize", "--delay", "1h")
    view = workplace.json("cancel", "--task", "resize", "--state", "scheduled", "--yes")
    assert view == {"task": "resize", "changed": 1, "refused": 0}
    assert counts(workplace) == {"resize": {"ready": 2, "cancelled": 1}}


def fail(workplace: Workplace, task: str) -> None:
    """Let one execution fail."""
    claimed = workplace.claim(task)
    workplace.end(
        Ending(
            execution=claimed.id,
            claim=claimed.claim,
            state="failed",
            outcome="failed",
            charged=True,
            started=NOON,
            ended=NOON,
            failure=Failure(type="ValueError", message="too wide"),
        )
    )


def test_all_of_a_task_that_have_failed_are_retried(workplace: Workplace) -> None:
    """Not the cancelled ones, unless they are named; one whose key another has by now cannot be."""
    workplace.run("invoke", "resize", "--dedupe-key", "nightly")
    fail(workplace, "resize")
    workplace.run("invoke", "resize", "--dedupe-key", "nightly")
    workplace.insert("mail", count=2)
    fail(workplace, "mail")
    workplace.run("cancel", "--task", "mail", "--yes")
    shown = workplace.run("retry", "--task", "mail", "--yes")
    assert shown.stdout == "ready again: 1 execution of mail\n"
    refused = workplace.json("retry", "--task", "resize", "--yes")
    assert refused == {"task": "resize", "changed": 0, "refused": 1}
    assert counts(workplace) == {"mail": {"ready": 1, "cancelled": 1}, "resize": {"ready": 1, "failed": 1}}


def test_whoever_changes_many_is_asked(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their number; where nobody can be, --yes is needed."""
    workplace.insert("resize", count=3)
    command = ("cancel", "--task", "resize")
    said = workplace.error(*command, status=2)
    assert said.endswith("to cancel all of a task, write --yes too: there is nobody to ask")
    monkeypatch.setattr(many, "can_be_asked", lambda: True)
    said = workplace.run(*command, status=1, stdin="n\n").stderr
    assert "cancel 3 executions of resize? [y/N]" in said
    assert counts(workplace) == {"resize": {"ready": 3}}
    workplace.run(*command, stdin="y\n")
    assert counts(workplace) == {"resize": {"cancelled": 3}}


def test_ids_or_a_task_are_named(workplace: Workplace) -> None:
    """Not both, and not neither."""
    for command in ("cancel", "retry"):
        assert "Missing argument" in workplace.error(command, status=2)
        assert "both say what is meant" in workplace.error(command, "x", "--task", "y", status=2)
    assert "write --task too" in workplace.error("retry", "x", "--state", "failed", status=2)
    workplace.declare(TaskSpec("resize"))
    shown = workplace.run("cancel", "--task", "rezise", "--yes")
    assert shown.stdout == "cancelled: 0 executions of rezise\n"
    assert "did you mean resize?" in shown.stderr


# pause and resume


def test_programs_read_what_is_paused(workplace: Workplace) -> None:
    """As it is now, and whether that is new."""
    workplace.declare(TaskSpec("resize", queue="media"))
    view = {"kind": "queue", "name": "media", "paused": True, "changed": True}
    assert workplace.json("pause", "media") == view
    assert workplace.json("pause", "media") == {**view, "changed": False}
    assert workplace.json("resume", "media") == {**view, "paused": False}
    assert workplace.json("resume", "media") == {**view, "paused": False, "changed": False}


def paused(workplace: Workplace) -> set[tuple[tasks.Kind, str]]:
    """Return what is paused."""
    with workplace.database.reading() as connection:
        return tasks.paused(connection)


def test_a_task_or_a_queue_is_paused_and_resumed_by_name(workplace: Workplace) -> None:
    """Which of them it is, is found out."""
    workplace.declare(TaskSpec("resize", queue="media"))
    assert workplace.run("pause", "resize").stdout == "task resize is paused\n"
    assert workplace.run("pause", "media").stdout == "queue media is paused\n"
    assert paused(workplace) == {("task", "resize"), ("queue", "media")}
    assert workplace.run("pause", "media").stdout == "queue media was paused already\n"
    assert workplace.run("resume", "media").stdout == "queue media goes on\n"
    assert workplace.run("resume", "media").stdout == "queue media was not paused\n"
    assert paused(workplace) == {("task", "resize")}


def test_a_name_that_is_both_must_be_told_apart(workplace: Workplace) -> None:
    """--task or --queue."""
    workplace.declare(TaskSpec("media", queue="media"))
    assert "write --task or --queue" in workplace.error("pause", "media", status=2)
    assert "write one of them" in workplace.error("pause", "media", "--queue", "--task", status=2)
    assert "write one of them" in workplace.error("resume", "media", "--task", "--queue", status=2)
    workplace.run("pause", "media", "--queue")
    assert paused(workplace) == {("queue", "media")}
    assert workplace.run("resume", "media").stdout == "queue media goes on\n"


def test_an_unknown_name_is_refused_with_near_ones(workplace: Workplace) -> None:
    """Rather than pause nothing."""
    workplace.declare(TaskSpec("resize", queue="media"))
    assert workplace.error("pause", "rezise", status=2).endswith(
        "there is no task or queue 'rezise'; did you mean resize?"
    )
    assert "there is no queue 'resize'; expected one of: default, media" in workplace.error(
        "pause", "resize", "--queue", status=2
    )


def test_what_the_code_no_longer_declares_can_still_be_resumed(workplace: Workplace) -> None:
    """A pause must never get stuck."""
    workplace.declare(TaskSpec("old"))
    workplace.run("pause", "old")
    workplace.declare(TaskSpec("new"))
    assert workplace.run("resume", "old").stdout == "task old goes on\n"


# status


def test_status_counts_executions_by_task_and_state(workplace: Workplace) -> None:
    """With or without a supervisor."""
    workplace.declare(TaskSpec("mail"), TaskSpec("resize"))
    workplace.insert("resize", count=2)
    workplace.insert("mail")
    workplace.claim("resize")
    shown = workplace.json("status")
    assert shown["supervisor"] is None
    assert shown["counts"] == {"mail": {"ready": 1}, "resize": {"ready": 1, "running": 1}}
    assert shown["waiting"] == []
    lines = [line.split() for line in workplace.run("status").stdout.splitlines()]
    assert lines[1][:5] == ["supervisor", "none", "is", "running", "here"]
    assert lines[1][7:9] == [f"{workplace.runtime});", "start"]
    assert shown["runtime"] == str(workplace.runtime)
    assert lines[-3:] == [["TASK", "READY", "RUNNING"], ["mail", "1"], ["resize", "1", "1"]]


def test_status_says_why_ready_work_waits(workplace: Workplace) -> None:
    """Paused, at its limit, unknown to the code."""
    workplace.declare(TaskSpec("mail", queue="post"), TaskSpec("resize", concurrency=1))
    workplace.insert("resize", count=2)
    workplace.claim("resize")
    workplace.insert("mail")
    workplace.insert("gone")
    workplace.run("pause", "post")
    shown = workplace.run("status").stdout
    assert "queue post is paused; let it go on: conductor-supervisor resume post" in shown
    assert "1 of resize: at its limit of 1" in shown
    assert "1 of mail: queue post is paused" in shown
    assert "1 of gone: unknown task: the running code does not declare it" in shown


def test_status_says_which_limits_are_used_up(workplace: Workplace) -> None:
    """By key, and in time."""
    spec = TaskSpec("resize", concurrency_by_key=KeyLimitSpec(1, "tenant"), rate=RateSpec(1, 60.0))
    workplace.declare(spec)
    workplace.insert("resize", count=2, concurrency_key="acme")
    wanted = Wanted("resize", 9, by_key=1, rate=spec.rate)
    with workplace.database.writing() as connection:
        assert len(claiming.claim(connection, [wanted], 9, "one", NOON).claimed) == 1
    shown = workplace.run("status").stdout
    assert "1 of resize: 1 key at the limit of 1 by tenant" in shown
    assert "1 of resize: at its rate of 1/minute" in shown


def test_status_counts_for_a_limit_by_key_only_those_whose_key_is_at_it(workplace: Workplace) -> None:
    """The others wait for a runner; a key that nobody waits for is not counted either."""
    spec = TaskSpec("resize", concurrency_by_key=KeyLimitSpec(1, "tenant"))
    workplace.declare(spec)
    for key in ("full", "nobody-waits"):
        workplace.insert("resize", concurrency_key=key)
    with workplace.database.writing() as connection:
        claiming.claim(connection, [Wanted("resize", 9, by_key=1)], 9, "one", NOON)
    for key in ("full", "other", "third", None):
        workplace.insert("resize", concurrency_key=key)
    (waiting,) = workplace.json("status")["waiting"]
    assert (waiting["executions"], waiting["reason"]) == (1, "1 key at the limit of 1 by tenant")


def test_status_tells_when_a_window_opens(workplace: Workplace) -> None:
    """A task outside its window: it is noon."""
    workplace.declare(TaskSpec("night", windows=(WindowSpec("20:00", "06:00", tz="UTC"),)))
    workplace.insert("night")
    (waiting,) = workplace.json("status")["waiting"]
    assert waiting["reason"] == "outside its window"
    assert waiting["until"] == "2030-01-01T20:00:00Z"
    assert "1 of night: outside its window, which opens 2030-01-" in workplace.run("status").stdout


def test_status_shows_what_each_runner_does(workplace: Workplace) -> None:
    """From the supervisor's own answer."""
    workplace.declare(TaskSpec("resize"))
    busy = control.RunnerStatus(
        number=1,
        pid=12,
        queue="default",
        state="busy",
        execution="01" * 18,
        task="resize",
        step="scale",
        seconds=3.25,
        memory=80 * 1024 * 1024,
        done=41,
        total=100,
        message="scaling",
    )
    dead = control.RunnerStatus(number=2, pid=None, queue="media", state="waiting", note="again in 2 s")
    with PretendSupervisor(workplace.runtime, lambda _: status([busy, dead])):
        shown = workplace.run("status").stdout
        programs = workplace.json("status")
    assert "running shop:app, process 4711" in shown
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"1 12 default busy resize {'01' * 18} scale 3.2 s 80 MiB 41/100 (41%) scaling" in rows
    assert "2 media waiting again in 2 s" in rows
    assert programs["supervisor"]["runners"][0]["step"] == "scale"
    assert programs["supervisor"]["started"] == "2030-01-01T12:00:00Z"


@pytest.mark.parametrize("command", [("status",), ("top", "--once")], ids=["status", "top"])
def test_runners_of_one_queue_are_told_apart_by_their_isolation(
    workplace: Workplace, command: tuple[str, ...]
) -> None:
    """Where it has several; else its name is enough. Restarts have a column where there were any."""
    workplace.run("migrate")
    pools = [("default", "runner", 0), ("default", "shared", 0), ("media", "fresh", 0)]

    def rows() -> list[list[str]]:
        runners = [
            control.RunnerStatus(
                number=number, pid=None, queue=queue, isolation=isolation, state="idle", restarts=restarts
            )
            for number, (queue, isolation, restarts) in enumerate(pools, 1)
        ]
        with PretendSupervisor(workplace.runtime, lambda _: status(runners)):
            return [line.split() for line in workplace.run(*command).stdout.splitlines()]

    shown = rows()
    for row in (
        ["1", "default,", "runner", "idle"],
        ["2", "default,", "shared", "idle"],
        ["3", "media", "idle"],
    ):
        assert row in shown
    pools[2] = ("media", "fresh", 7)
    assert ["3", "media", "idle", "7"] in rows()
    assert command == ("top", "--once") or not any("RESTARTS" in row for row in shown)


@pytest.fixture
def shared(postgres_url: str) -> Iterator[Database]:
    """A database that several supervisors may share."""
    database = Database.open(postgres_url)
    yield database
    database.close()


def lease(database: Database, host: str, seconds: int = 30) -> Member:
    """Let a supervisor of another machine have a lease for so long; below zero: it is over."""
    member = Member(f"id-{host}", host, 4711, "shop:app", NOON)
    with database.writing() as connection:
        leases.renew(connection, member, seconds * 1_000_000)
    return member


def test_nobody_is_told_to_start_a_supervisor_where_others_share_the_database(
    workplace: Workplace, shared: Database
) -> None:
    """None is running in this runtime folder, which is named."""
    at = ("--database", shared.url_for_people)
    workplace.run("invoke", "resize", *at)
    told = f"supervisor  none is running here (runtime folder {workplace.runtime})"
    start = "; start one: conductor-supervisor start"
    waits = "no supervisor is running here; the execution waits for one"
    asked = ("invoke", "resize", "--wait", "--timeout", "0s", *at)
    for seconds, others_live in ((-1, False), (30, True)):
        lease(shared, "web1", seconds)
        lines = workplace.run("status", *at).stdout.splitlines()
        assert (told if others_live else told + start) in lines
        assert (waits in workplace.run(*asked, status=1).stderr) != others_live


def test_status_tells_who_shares_the_database(workplace: Workplace, shared: Database) -> None:
    """Since when, and which of them is the one of this runtime folder, as long as that is running."""
    at = ("--database", shared.url_for_people)
    here = lease(shared, "web1")
    lease(shared, "web2")
    with folder_lock(workplace.runtime, here.id):
        with PretendSupervisor(workplace.runtime, lambda _: status()):
            lines = workplace.run("status", *at).stdout.splitlines()
            sharing = workplace.json("status", *at)["sharing"]
        assert [one["here"] for one in workplace.json("status", *at)["sharing"]] == [False, False]
    assert [(one["host"], one["here"]) for one in sharing] == [("web1", True), ("web2", False)]
    since = render.local(moment(NOON))
    assert f"shared by   this one, process 4711 on web1, shop:app, since {since}" in lines
    assert f"shared by   process 4711 on web2, shop:app, since {since}" in lines


def test_nobody_takes_executions_where_nobody_lives(workplace: Workplace, shared: Database) -> None:
    """They wait then; where another lives, it takes them."""
    at = ("--database", shared.url_for_people)
    lease(shared, "web1", -1)
    shown = workplace.run("status", *at).stdout
    assert "; its lease is over, its executions wait for a supervisor to take them" in shown
    lease(shared, "web2")
    assert "; its lease is over, others take its executions" in workplace.run("status", *at).stdout


AWAY = ("--database", "postgresql://postgres@127.0.0.1:1/shop")
"""A database that is away: nobody listens there."""


@pytest.mark.parametrize("command", [("status",), ("top", "--once")], ids=["status", "top"])
def test_what_runs_is_shown_while_the_database_is_away(
    workplace: Workplace, command: tuple[str, ...]
) -> None:
    """The supervisor and its runners need it not; the exit status is 1."""
    idle = control.RunnerStatus(number=1, pid=12, queue="default", state="idle")
    with PretendSupervisor(workplace.runtime, lambda _: status([idle])):
        result = workplace.run(*command, *AWAY, status=1)
        programs = workplace.json(*command, *AWAY, status=1)
    shown = programs["status"] if command[0] == "top" else programs
    rows = [line.split()[:4] for line in result.stdout.splitlines()]
    assert ["1", "12", "default", "idle"] in rows
    assert "the database is away: postgresql://postgres@127.0.0.1:1/shop cannot be used: " in result.stdout
    assert "no executions" not in result.stdout
    assert shown["supervisor"]["pid"] == 4711
    assert "cannot be used" in shown["database_error"]
    assert (shown["counts"], shown["sharing"], shown["waiting"]) == ({}, [], [])


def test_while_the_database_is_there_no_error_of_it_is_shown(workplace: Workplace) -> None:
    """As with one that is not made yet."""
    assert workplace.json("status")["database_error"] is None
    workplace.insert("resize")
    assert workplace.json("status")["database_error"] is None


# stop


def test_stop_without_a_supervisor_fails_at_once(workplace: Workplace) -> None:
    """Exit status 1."""
    assert "no supervisor is running here" in workplace.error("stop", status=1)


def test_a_socket_that_a_dead_supervisor_left_behind_is_no_supervisor(workplace: Workplace) -> None:
    """Nobody waits for an answer that cannot come."""
    with PretendSupervisor(workplace.runtime, lambda _: status()):
        pass
    (workplace.runtime / control.SOCKET).touch()
    assert "no supervisor is running here" in workplace.error("stop", status=1)


def test_where_nobody_listens_an_answer_is_not_waited_for(workplace: Workplace) -> None:
    """However patient the asker is."""
    with pytest.raises(NotRunning):
        control.ask(workplace.runtime, control.AskStatus(), timeout=3600)


def answering(pid: int, reply: control.Reply) -> Answer:
    """Return how a supervisor answers that says this to a request to stop."""
    return lambda request: status(pid=pid) if isinstance(request, control.AskStatus) else reply


@pytest.mark.parametrize("now", [False, True])
def test_stop_asks_the_supervisor(workplace: Workplace, now: bool) -> None:
    """Gracefully, or with --now without waiting for checkpoints."""
    with PretendSupervisor(workplace.runtime, answering(4711, control.Accepted())) as supervisor:
        result = workplace.run("stop", *(["--now"] if now else []))
    assert result.stdout == "supervisor 4711 is stopping\n"
    assert supervisor.asked[-1] == control.AskStop(now=now)


def test_programs_read_what_a_supervisor_does(workplace: Workplace) -> None:
    """It is stopping; it has read the code anew."""
    with PretendSupervisor(workplace.runtime, answering(4711, control.Accepted())):
        assert workplace.json("stop") == {"pid": 4711, "ended": False}
    (workplace.runtime / control.SOCKET).unlink(missing_ok=True)
    with PretendSupervisor(workplace.runtime, answering(4711, control.Reloaded(tasks=3, retiring=1))):
        assert workplace.json("reload") == {"tasks": 3, "retiring": 1}
    database = f"sqlite:///{workplace.folder}/conductor.db"
    assert workplace.json("migrate") == {"database": database, "changed": True}
    assert workplace.json("migrate")["changed"] is False


def test_a_refusal_is_told(workplace: Workplace) -> None:
    """With the supervisor's own words."""
    with PretendSupervisor(workplace.runtime, answering(4711, control.Rejected("no"))):
        assert workplace.error("stop", status=1) == "Error: no"


def test_stop_can_wait_until_the_supervisor_has_ended(workplace: Workplace) -> None:
    """It returns when the process is gone."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:

        def answer(request: control.Request) -> control.Reply:
            if isinstance(request, control.AskStatus):
                return status(pid=process.pid)
            assert process.stdin is not None
            process.stdin.close()
            return control.Accepted()

        with PretendSupervisor(workplace.runtime, answer):
            result = workplace.run("stop", "--wait")
        assert result.stdout == f"supervisor {process.pid} has stopped\n"
        assert process.poll() is not None
