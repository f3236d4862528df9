"""What executions print is kept in order, bounded, as long as they are."""

from __future__ import annotations

from contextlib import closing

import pytest
from sqlalchemy import func, select
from store_moves import NOW, SECOND, ask, chunk, claim, end, ending, invoke, running

from conductor_protocol.operations import GetOutput, OutputPiece, Printed, RetryExecution
from conductor_protocol.units import moment
from conductor_supervisor.store import executions, output, perform, schema
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.output import Chunk


def keep(database: Database, *chunks: Chunk, limit: int = 1000) -> None:
    with database.writing() as connection:
        output.keep(connection, chunks, limit)


def printed(database: Database, execution: str, after: int = 0) -> Printed:
    answer = ask(database, GetOutput(execution, after))
    assert isinstance(answer, Printed), answer
    return answer


def texts(database: Database, execution: str) -> list[str]:
    return [piece.text for piece in printed(database, execution).pieces]


def test_what_was_printed_comes_back_in_order_with_all_that_is_known_of_it(database: Database) -> None:
    """Stream, moment and attempt; and only that of the execution asked for."""
    one, other = running(database), running(database)
    keep(database, chunk(one, "a\n"), chunk(other, "x\n"), chunk(one, "b\n", "stderr", before=2))
    assert printed(database, one.id).pieces == [
        OutputPiece(attempt=1, stream="stdout", time=moment(NOW), text="a\n"),
        OutputPiece(attempt=1, stream="stderr", time=moment(NOW), text="b\n"),
    ]
    assert printed(database, one.id).state == "running"


def test_what_comes_after_the_ending_is_kept_too(database: Database) -> None:
    """A pipe is read after the last word; and what an earlier attempt printed stays."""
    one = running(database)
    keep(database, chunk(one, "first\n"))
    end(database, ending(one, "ready", "failed"))
    (again,) = claim(database, "t")
    keep(database, chunk(again, "second\n"))
    keep(database, chunk(one, "first, late\n", before=6))
    end(database, ending(again))
    keep(database, chunk(again, "second, late\n", before=7))
    assert texts(database, one.id) == ["first\n", "second\n", "first, late\n", "second, late\n"]
    assert not any(piece.dropped for piece in printed(database, one.id).pieces)
    assert printed(database, one.id).state == "completed"


def test_nothing_is_kept_of_an_execution_that_is_gone(database: Database) -> None:
    """It would stay for ever."""
    one = running(database)
    end(database, ending(one, expires=NOW))
    with database.writing() as connection:
        assert executions.remove_expired(connection, NOW) == 1
    keep(database, chunk(one, "late\n"))
    assert rows(database) == 0


def test_what_is_kept_beside_a_removal_does_not_stay_for_ever(postgres_url: str) -> None:
    """Whoever removes expired executions leaves alone one whose output is just being stored."""
    with closing(Database.open(postgres_url)) as database:
        one = running(database)
        end(database, ending(one, expires=NOW))
        with database.writing() as connection:
            output.keep(connection, [chunk(one, "late\n")], 1000)
            with database.writing() as sweep:
                assert executions.remove_expired(sweep, NOW) == 0
        with database.writing() as sweep:
            assert executions.remove_expired(sweep, NOW) == 1
        assert rows(database) == 0


def test_the_oldest_is_dropped_above_the_limit(database: Database) -> None:
    """Over all attempts of an execution, and of no other."""
    one, other = running(database), running(database)
    keep(database, chunk(other, "x" * 90), limit=100)
    for number in range(10):
        keep(database, chunk(one, f"{number}" * 30, before=30 * number), limit=100)
    assert texts(database, one.id) == ["7" * 30, "8" * 30, "9" * 30]
    assert [piece.dropped for piece in printed(database, one.id).pieces] == [210, 0, 0]
    end(database, ending(one, "ready", "failed"))
    (again,) = claim(database, "t")
    keep(database, chunk(again, "a" * 60), limit=100)
    assert texts(database, one.id) == ["9" * 30, "a" * 60]
    assert texts(database, other.id) == ["x" * 90]


def test_what_was_dropped_before_it_could_be_kept_is_counted(database: Database) -> None:
    """A gap within an attempt."""
    one = running(database)
    keep(database, chunk(one, "ab"), chunk(one, "cd", before=50))
    first = printed(database, one.id)
    assert [piece.dropped for piece in first.pieces] == [0, 48]
    keep(database, chunk(one, "ef", before=52), chunk(one, "gh", before=60))
    assert [piece.dropped for piece in printed(database, one.id, first.last).pieces] == [0, 6]


def test_output_is_read_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is; a chunk larger than a page comes alone."""
    monkeypatch.setattr(perform, "OUTPUT_PAGE", 10)
    one = running(database)
    keep(database, *(chunk(one, text) for text in ("a" * 4, "b" * 4, "c" * 4, "d" * 40, "e")))
    pages: list[list[str]] = []
    last, complete = 0, False
    while not complete:
        page = printed(database, one.id, last)
        pages.append([piece.text[0] for piece in page.pieces])
        last, complete = page.last, page.complete
    assert pages == [["a", "b"], ["c"], ["d"], ["e"]]
    keep(database, chunk(one, "f"))
    assert [piece.text for piece in printed(database, one.id, last).pieces] == ["f"]
    assert printed(database, one.id, last + 99) == Printed("running", [], last + 99, complete=True)


def test_output_leaves_with_its_execution_and_only_so(database: Database) -> None:
    """A retry by a client clears nothing."""
    one, other = running(database), running(database)
    keep(database, chunk(one, "one\n"), chunk(other, "other\n"))
    end(database, ending(one, expires=NOW + SECOND), ending(other, "failed"))
    ask(database, RetryExecution(other.id))
    with database.writing() as connection:
        assert executions.remove_expired(connection, NOW + SECOND) == 1
    assert rows(database) == 1
    assert texts(database, other.id) == ["other\n"]


def test_an_execution_that_prints_nothing_has_an_empty_page(database: Database) -> None:
    """That is no error."""
    (one,) = invoke(database, "t")
    assert printed(database, one) == Printed("ready", [], 0, complete=True)


def rows(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(select(func.count()).select_from(schema.output)).scalar_one()
