"""``logs``: what an execution has printed, for people and for programs."""

from __future__ import annotations

import pytest
from workplace import NOON, SECOND, Workplace

from conductor_protocol.operations import Failure, OutputPiece, Stream
from conductor_protocol.units import moment
from conductor_supervisor.cli import output as logs
from conductor_supervisor.cli.output import Lines
from conductor_supervisor.store import output
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Claimed
from conductor_supervisor.store.output import Chunk


def piece(
    text: str, stream: Stream = "stdout", attempt: int = 1, at: int = 0, dropped: int = 0
) -> OutputPiece:
    return OutputPiece(
        attempt=attempt, stream=stream, time=moment(NOON + at * SECOND), text=text, dropped=dropped
    )


def lines(*pieces: OutputPiece) -> list[tuple[str, str, int]]:
    """What comes of pieces: stream, text, and second of each line."""
    together = Lines()
    found = [*together.feed(pieces), *together.finish()]
    return [(line.stream, line.text, (line.time - moment(NOON)).seconds) for line in found]


def test_a_line_may_come_in_pieces() -> None:
    """With lines of the other stream between; its moment is that of its beginning."""
    assert lines(
        piece("a\nhal", at=1), piece("err\n", "stderr", at=2), piece("f", at=3), piece("\r\n\nend", at=4)
    ) == [
        ("stdout", "a", 1),
        ("stderr", "err", 2),
        ("stdout", "half", 1),
        ("stdout", "", 4),
        ("stdout", "end", 4),
    ]


def test_lines_of_different_attempts_are_not_joined() -> None:
    """The first one died within its line."""
    assert [text for _, text, _ in lines(piece("half"), piece("whole\n", attempt=2))] == ["whole", "half"]


def test_a_line_is_not_joined_over_a_gap() -> None:
    """What stood between is kept no more."""
    assert [text for _, text, _ in lines(piece("half"), piece("of another\n", dropped=9))] == [
        "half",
        "of another",
    ]


def keep(
    workplace: Workplace, claimed: Claimed, text: str, stream: Stream = "stdout", before: int = 0
) -> None:
    with workplace.database.writing() as connection:
        chunk = Chunk(
            execution=claimed.id,
            claim=claimed.claim,
            attempt=claimed.attempt + 1,
            stream=stream,
            time=NOON,
            text=text,
            size=len(text),
            before=before,
        )
        output.keep(connection, [chunk], limit=1000)


def failed(claimed: Claimed, state: str = "failed") -> Ending:
    return Ending(
        execution=claimed.id,
        claim=claimed.claim,
        state=state,  # type: ignore[arg-type]
        outcome="failed",
        charged=True,
        started=NOON,
        ended=NOON,
        failure=Failure(type="ValueError", message="too wide"),
    )


@pytest.fixture
def printed(workplace: Workplace) -> str:
    """An execution that has printed in two attempts."""
    (execution,) = workplace.insert("resize")
    first = workplace.claim("resize")
    keep(workplace, first, "one\ntwo\n")
    keep(workplace, first, "complaint\n", "stderr", before=8)
    workplace.end(failed(first, "ready"))
    second = workplace.claim("resize")
    keep(workplace, second, "three \x1b[31m\nhalf")
    return execution


def test_lines_are_printed_in_order(workplace: Workplace, printed: str) -> None:
    """Of both streams and all attempts, without steering a terminal."""
    shown = workplace.run("logs", printed)
    assert shown.stdout == "one\ntwo\ncomplaint\nthree \\x1b[31m\nhalf\n"
    assert shown.stderr == ""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--stream", "stderr"], "complaint\n"),
        (["--stream", "stdout", "--attempt", "1"], "one\ntwo\n"),
        (["--attempt", "2"], "three \\x1b[31m\nhalf\n"),
        (["--tail", "2"], "three \\x1b[31m\nhalf\n"),
        (["--tail", "1", "--attempt", "1"], "complaint\n"),
        (["--tail", "0"], ""),
        (["--tail", "99", "--stream", "stderr"], "complaint\n"),
    ],
)
def test_lines_can_be_chosen(workplace: Workplace, printed: str, options: list[str], expected: str) -> None:
    """By stream, attempt and number."""
    shown = workplace.run("logs", printed[-8:], *options)
    assert (shown.stdout, shown.stderr) == (expected, "")


def test_programs_get_a_list_of_lines(workplace: Workplace, printed: str) -> None:
    """With moment, stream and attempt."""
    found = workplace.json("logs", printed)
    assert [line["text"] for line in found] == ["one", "two", "complaint", "three \x1b[31m", "half"]
    assert found[2] == {"time": "2030-01-01T12:00:00Z", "stream": "stderr", "attempt": 1, "text": "complaint"}
    assert [line["attempt"] for line in found] == [1, 1, 1, 2, 2]


def test_stderr_is_dim_on_a_terminal(
    workplace: Workplace, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the two are told apart; unless nobody wants colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\ntwo\n\x1b[2mcomplaint\x1b[0m\n" in workplace.run("logs", printed).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in workplace.run("logs", printed).stdout


def test_an_execution_that_has_printed_nothing_is_no_failure(workplace: Workplace) -> None:
    """It is said on stderr; a program gets an empty list."""
    (execution,) = workplace.insert("resize")
    shown = workplace.run("logs", execution)
    assert (shown.stdout, shown.stderr) == ("", f"execution {execution} has printed nothing\n")
    shown = workplace.run("logs", execution, "--stream", "stderr", "--attempt", "2")
    assert shown.stderr == f"execution {execution} has printed nothing to stderr in attempt 2\n"
    assert workplace.json("logs", execution) == []


def test_what_is_kept_no_more_is_said(workplace: Workplace) -> None:
    """Nobody must take the rest for all."""
    workplace.insert("resize")
    claimed = workplace.claim("resize")
    keep(workplace, claimed, "the end\n", before=4096)
    shown = workplace.run("logs", claimed.id)
    assert (shown.stdout, shown.stderr) == (
        "the end\n",
        "(4 KiB that were printed earlier are kept no more)\n",
    )


def test_an_unknown_id_is_told(workplace: Workplace, printed: str) -> None:
    """As by ``show``."""
    unknown = "01999999-9999-7999-9999-999999999999"
    assert f"no execution {unknown}" in workplace.error("logs", unknown, status=1)


def test_follow_and_json_do_not_go_together(workplace: Workplace, printed: str) -> None:
    """An array has an end."""
    assert "write one of them" in workplace.error("logs", printed, "--follow", "--json", status=2)


def test_follow_goes_on_until_the_execution_has_finished(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look brings what has come since; what comes a moment after the ending is shown too."""
    workplace.insert("resize")
    claimed = workplace.claim("resize")
    keep(workplace, claimed, "zero\none\ntw")
    happens = [
        lambda: keep(workplace, claimed, "o\nthree\n", before=11),
        lambda: workplace.end(failed(claimed)),
        lambda: keep(workplace, claimed, "late", before=19),
    ]

    monkeypatch.setattr(logs.time, "sleep", lambda _seconds: happens.pop(0)())
    shown = workplace.run("logs", claimed.id, "-f", "--tail", "1")
    assert shown.stdout == "one\ntwo\nthree\nlate\n"
    assert happens == []
