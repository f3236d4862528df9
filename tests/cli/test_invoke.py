"""``invoke`` writes an execution, after checking all that can be checked."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest
from workplace import NOON, SECOND, Workplace

from conductor_protocol.manifest import ScheduleSpec, TaskSpec
from conductor_protocol.operations import CancelExecution, Failure
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.perform import perform

RESIZE = TaskSpec("resize")
NIGHTLY = TaskSpec("nightly", invocable=False, schedules=(ScheduleSpec("cron", "0 2 * * *"),))


@pytest.fixture
def shop(workplace: Workplace) -> Workplace:
    """A folder in which a supervisor has declared two tasks."""
    workplace.declare(RESIZE, NIGHTLY)
    return workplace


def test_the_id_is_all_that_is_printed(shop: Workplace) -> None:
    """A script can take stdout as the id."""
    result = shop.run("invoke", "resize", '{"id": 1}')
    shown = shop.json("show", result.stdout.strip())
    assert (shown["task"], shown["state"], shown["payload"]) == ("resize", "ready", {"id": 1})
    assert result.stderr == ""


def test_the_payload_is_null_unless_given(shop: Workplace) -> None:
    """JSON may be left out."""
    assert shop.json("show", shop.run("invoke", "resize").stdout.strip())["payload"] is None


def test_the_payload_may_come_from_a_file_or_stdin(shop: Workplace) -> None:
    """--file FILE, or "-"."""
    Path("payload.json").write_text("[1, 2]")
    from_file = shop.run("invoke", "resize", "--file", "payload.json").stdout.strip()
    from_stdin = shop.run("invoke", "resize", "--file", "-", stdin="[3]").stdout.strip()
    assert shop.json("show", from_file)["payload"] == [1, 2]
    assert shop.json("show", from_stdin)["payload"] == [3]


def test_when_and_how_it_is_run_can_be_said(shop: Workplace) -> None:
    """--run-at and --priority are kept."""
    execution = shop.run(
        "invoke", "resize", "--run-at", "2130-01-31T08:00+01:00", "--priority", "7"
    ).stdout.strip()
    shown = shop.json("show", execution)
    assert (shown["state"], shown["waiting_for"], shown["priority"]) == ("scheduled", "delay", 7)
    assert datetime.fromisoformat(shown["due"]) == datetime(2130, 1, 31, 7, tzinfo=UTC)
    delayed = shop.json("show", shop.run("invoke", "resize", "--delay", "1h").stdout.strip())
    assert (
        datetime.fromisoformat(delayed["due"]) - datetime.fromisoformat(delayed["created"])
    ).seconds == 3600


def test_a_dedupe_key_gives_the_unfinished_execution_back(shop: Workplace) -> None:
    """The same id twice, and stderr says why."""
    first = shop.run("invoke", "resize", "--dedupe-key", "k")
    second = shop.run("invoke", "resize", "--dedupe-key", "k")
    assert first.stdout == second.stdout
    assert "has the dedupe key 'k' already" in second.stderr
    assert shop.json("invoke", "resize", "--dedupe-key", "k") == {
        "id": first.stdout.strip(),
        "created": False,
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rezise"], "there is no task 'rezise'; did you mean resize?"),
        (["a b"], "TASK: expected letters, digits, -, _ and . (at most 200), got 'a b'"),
        (["nightly"], "task nightly may not be invoked by name, because it has another trigger"),
        (["resize", "{id: 1}"], "expected JSON such as '{\"id\": 1}', got '{id: 1}'"),
        (["resize", "hello"], "if it is meant as text, write: '\"hello\"'"),
        (["resize", "it's"], """write: '"it'"'"'s"'"""),
        (
            ["resize", "--priority", "high"],
            "Invalid value for '--priority': 'high' is not a valid whole number.",
        ),
        (["resize", "NaN"], "expected JSON"),
        (["resize", "1", "--file", "x"], "the payload is given twice"),
        (["resize", "--file", "none.json"], "--file none.json: cannot be read: No such file"),
        (["resize", "--delay", "soon"], "--delay: expected a duration such as"),
        (["resize", "--run-at", "tomorrow"], "--run-at: expected a moment such as 2030-01-31T08:00+01:00"),
        (["resize", "--run-at", "2030-01-31T08:00"], "names no time zone; write 2030-01-31T08:00Z or"),
        (["resize", "--delay", "1s", "--run-at", "2030-01-31T08:00Z"], "both say when"),
        (["resize", "--priority", "40000"], "--priority"),
        (["resize", "--timeout", "1s"], "--timeout says how long to wait; write --wait too"),
        (["resize", '"' + "x" * 1024 * 1024 + '"'], "the payload has 1 MiB; at most 1 MiB are allowed"),
        ([], "Missing argument 'TASK'"),
    ],
)
def test_wrong_use_is_refused_and_nothing_is_written(
    shop: Workplace, arguments: list[str], says: str
) -> None:
    """Exit status 2, and one message that says what to write."""
    assert says in shop.error("invoke", *arguments, status=2)
    assert shop.json("list") == []


def test_the_payloads_limit_is_a_setting(shop: Workplace) -> None:
    """max_payload in conductor.toml."""
    Path("conductor.toml").write_text("max_payload = 10")
    assert "raise max_payload" in shop.error("invoke", "resize", "[1,2,3,4,5,6]", status=2)


def test_before_any_supervisor_ran_a_task_is_taken_on_trust(workplace: Workplace) -> None:
    """Clients work while the supervisor is down, even before its first start; the database is made."""
    result = workplace.run("invoke", "anything")
    assert "nobody could check that there is a task 'anything'" in result.stderr
    assert [one["task"] for one in workplace.json("list")] == ["anything"]


def finish_when_it_is_there(shop: Workplace, **ending: object) -> Thread:
    """Play the supervisor in a thread: wait for an execution, claim it and end it so."""

    def play() -> None:
        while not shop.ids():
            time.sleep(0.002)
        claimed = shop.claim("resize")
        shop.end(
            Ending(execution=claimed.id, claim=claimed.claim, started=NOON, ended=NOON + SECOND, **ending)
        )

    thread = Thread(target=play)
    thread.start()
    return thread


def test_wait_prints_the_result_on_one_line(shop: Workplace) -> None:
    """stdout is the result, and nothing else."""
    thread = finish_when_it_is_there(
        shop, state="completed", outcome="completed", charged=False, result=b'{"pages":[1,2]}'
    )
    result = shop.run("invoke", "resize", "--wait")
    thread.join()
    assert result.stdout == '{"pages":[1,2]}\n'
    assert shop.ids()[0] in result.stderr
    assert "no supervisor is running here" in result.stderr


def test_wait_fails_with_the_execution(shop: Workplace) -> None:
    """Exit status 1 and the reason."""
    failure = Failure(type="ValueError", message="too wide")
    thread = finish_when_it_is_there(shop, state="failed", outcome="failed", charged=True, failure=failure)
    message = shop.error("invoke", "resize", "--wait", status=1)
    thread.join()
    assert message.endswith(f"Error: execution {shop.ids()[0]} failed: ValueError: too wide")


def test_wait_as_json_tells_the_failure_too(shop: Workplace) -> None:
    """The same fields whatever the outcome."""
    failure = Failure(type="ValueError", message="too wide")
    thread = finish_when_it_is_there(shop, state="failed", outcome="failed", charged=True, failure=failure)
    outcome = shop.json("invoke", "resize", "--wait", status=1)
    thread.join()
    assert outcome == {
        "id": shop.ids()[0],
        "created": True,
        "state": "failed",
        "result": None,
        "error": {"type": "ValueError", "message": "too wide"},
    }


def test_a_wait_may_have_a_limit(shop: Workplace) -> None:
    """After it, exit status 1; the execution goes on."""
    message = shop.error("invoke", "resize", "--wait", "--timeout", "10ms", status=1)
    assert "is ready, not finished after 10 ms; it waits: conductor-supervisor show" in message
    assert shop.json("list")[0]["state"] == "ready"


def test_waiting_for_a_cancelled_execution_tells_the_reason(shop: Workplace) -> None:
    """As whoever cancelled it gave it."""

    def cancel() -> None:
        while not (ids := shop.ids()):
            time.sleep(0.002)
        with shop.database.writing() as connection:
            perform(connection, CancelExecution(ids[0], "wrong customer"), NOON)

    thread = Thread(target=cancel)
    thread.start()
    message = shop.error("invoke", "resize", "--wait", status=1)
    thread.join()
    assert f"execution {shop.ids()[0]} was cancelled: wrong customer" in message
