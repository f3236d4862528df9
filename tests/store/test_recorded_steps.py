"""Steps are recorded once, in order, and paged so that ten thousand of them do not travel at once."""

from __future__ import annotations

import pytest
from store_moves import NOW, SECOND, claim, end, ending, invoke, running, step, view

from conductor_protocol.codec import pack
from conductor_protocol.messages import RecordedStep, StepPage
from conductor_protocol.units import moment
from conductor_supervisor.store import steps
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.steps import NewStep

AMPLE = 1 << 20


in_both_ways = pytest.mark.parametrize("small_enough", [steps.SMALL_ENOUGH, 0], indirect=True)
"""Several steps are recorded by one statement, or by one each where results are large."""


@pytest.fixture(autouse=True)
def small_enough(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one statement takes."""
    monkeypatch.setattr(steps, "SMALL_ENOUGH", getattr(request, "param", steps.SMALL_ENOUGH))


def record(database: Database, *new: NewStep) -> list[NewStep]:
    with database.writing() as connection:
        return steps.record(connection, new)


def first_page(database: Database, execution: str, max_bytes: int = AMPLE) -> tuple[list[RecordedStep], int]:
    with database.reading() as connection:
        return steps.first_page(connection, [execution], max_bytes)[execution]


def page_after(database: Database, execution: str, name: str | None, max_bytes: int = AMPLE) -> list[str]:
    with database.reading() as connection:
        return [found.name for found in steps.page_after(connection, execution, name, max_bytes)]


@in_both_ways
def test_a_recorded_step_can_be_read(database: Database) -> None:
    """Its name may be any text, its result any JSON."""
    claimed = running(database)
    names = ["a", "", "with 'quotes' and \"more\"", "Zoë 🚀", "x" * 500]
    assert record(database, *[step(claimed, name, b'{"n": 1}') for name in names]) == []
    page, total = first_page(database, claimed.id)
    assert page == [RecordedStep(name, b'{"n": 1}') for name in names]
    assert total == len(names)
    assert page_after(database, claimed.id, "Zoë 🚀") == ["x" * 500]
    with pytest.raises(LookupError, match="no recorded step 'Zoë'"):
        page_after(database, claimed.id, "Zoë")
    shown = view(database, claimed.id)
    assert [one.name for one in shown.steps] == names
    assert (shown.steps[0].result, shown.steps[0].attempt, shown.steps_recorded) == ({"n": 1}, 1, len(names))
    assert (shown.steps[0].started, shown.steps[0].ended) == (moment(NOW), moment(NOW + SECOND))


@in_both_ways
def test_a_resent_step_changes_nothing_and_is_not_late(database: Database) -> None:
    """The first result stays, also where both came in one group."""
    claimed = running(database)
    assert record(database, step(claimed, "a", b"1"), step(claimed, "a", b"2")) == []
    assert record(database, step(claimed, "a", b"3")) == []
    assert first_page(database, claimed.id) == ([RecordedStep("a", b"1")], 1)


@in_both_ways
def test_a_late_step_is_handed_back(database: Database) -> None:
    """From an earlier claim, a finished execution or an unknown one."""
    first = running(database)
    end(database, ending(first, "ready", "released"))
    (second,) = claim(database, "t")
    stranger = NewStep("unknown", 1, "a", b"1", NOW, NOW, 1)
    assert record(database, step(first, "a"), step(second, "b"), stranger) == [step(first, "a"), stranger]
    end(database, ending(second))
    assert record(database, step(second, "c")) == [step(second, "c")]
    assert first_page(database, first.id) == ([RecordedStep("b", b"1")], 1)


def test_steps_survive_attempts(database: Database) -> None:
    """They are the execution's, not the attempt's, and stay in the order in which they were recorded."""
    first = running(database)
    record(database, step(first, "z"))
    end(database, ending(first, "ready", "released"))
    (second,) = claim(database, "t")
    record(database, step(second, "a"))
    assert [one.name for one in first_page(database, first.id)[0]] == ["z", "a"]


def test_pages_hold_what_fits(database: Database) -> None:
    """The first page may be empty; a page that was asked for has one step at least, however large."""
    claimed = running(database)
    record(database, *[step(claimed, name, b"1" * 10) for name in "abcdef"])
    one = steps.size(RecordedStep("a", b"1" * 10))
    page, total = first_page(database, claimed.id, max_bytes=2 * one)
    assert ([one.name for one in page], total) == (["a", "b"], 6)
    assert first_page(database, claimed.id, max_bytes=one - 1) == ([], 6)
    assert page_after(database, claimed.id, None, max_bytes=2 * one) == ["a", "b"]
    assert page_after(database, claimed.id, "b", max_bytes=2 * one) == ["c", "d"]
    assert page_after(database, claimed.id, "b", max_bytes=1) == ["c"]
    assert page_after(database, claimed.id, "e") == ["f"]
    assert page_after(database, claimed.id, "f") == []


@pytest.mark.parametrize("name", ["x" * 500, "🚀" * 500])
def test_names_take_room_in_pages(database: Database, name: str) -> None:
    """As many bytes as they have on the wire: ten thousand long ones do not fit into a frame."""
    claimed = running(database)
    record(database, *[step(claimed, f"{number:03}{name[3:]}") for number in range(450)])
    room = 100_000
    page, _ = first_page(database, claimed.id, room)
    following = page_after(database, claimed.id, page[-1].name, room)
    for names in ([one.name for one in page], following):
        parcel = pack([StepPage(1, [RecordedStep(one, b"1") for one in names], "go on")])
        assert 0.9 * room < len(parcel) <= room + 100


def test_first_pages_share_their_room(database: Database) -> None:
    """Several executions travel together, so the limit is for all of them."""
    invoke(database, "t", "t", "t")
    one, two, none = claim(database, "t")
    record(database, step(one, "a", b"1" * 10), step(two, "a", b"1" * 10), step(two, "b", b"1" * 10))
    with database.reading() as connection:
        room = 2 * steps.size(RecordedStep("a", b"1" * 10))
        pages = steps.first_page(connection, [one.id, two.id, none.id], room)
    assert [(len(page), total) for page, total in pages.values()] == [(1, 1), (1, 2), (0, 0)]
