"""Limits by key and rates hold over all supervisors, and what is full costs nobody else anything."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from sqlalchemy import event, select
from store_moves import NOW, SECOND, ask, claim, end, ending, invoke, view

from conductor_protocol.manifest import KeyLimitSpec, RateSpec, TaskSpec
from conductor_protocol.operations import InvokeMany, NewExecution, Refused, RetryExecution
from conductor_protocol.units import Instant
from conductor_supervisor.rules.rate import MARGIN, UNKNOWN_FOR
from conductor_supervisor.store import attempts, claiming, keys, schedules, schema, starts, tasks
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.claiming import Claimed, Claims, Wanted
from conductor_supervisor.store.database import Database
from conductor_supervisor.store.schedules import Firing
from conductor_supervisor.writes import EndAttempt, apply

RATE = RateSpec(2, 10.0)
SPAN = 10 * SECOND + MARGIN


def declare(database: Database, **options: Any) -> None:
    """Write down what the code declares of the task ``t``."""
    with database.writing() as connection:
        tasks.declare(connection, [TaskSpec("t", **options)], NOW)


def of(database: Database, *tenants: str | None, **options: Any) -> list[str]:
    """Create an execution for each tenant."""
    new = [
        NewExecution(task="t", payload=Raw(msgspec.json.encode({"tenant": t})), key_path="tenant", **options)
        for t in tenants
    ]
    answer = ask(database, InvokeMany(new))
    return answer.ids  # type: ignore[union-attr]


def tenants(claimed: list[Claimed]) -> list[str]:
    return [msgspec.json.decode(one.payload)["tenant"] for one in claimed]


def by_key(most: int, at_most: int = 100, **options: Any) -> Wanted:
    return Wanted("t", at_most, by_key=most, **options)


def keys_running(database: Database) -> dict[str, int]:
    with database.reading() as connection:
        return dict(keys._running(connection, "t"))


# Keys


def test_no_key_runs_above_its_limit_and_the_queues_order_holds(database: Database) -> None:
    """A key that is full is passed over; without a key nothing is."""
    of(database, "a", "a", "a", "b", None, None, "b", "c")
    first = claim(database, by_key(2))
    assert tenants(first) == ["a", "a", "b", None, None, "b", "c"]
    assert claim(database, by_key(2), by="other") == []
    end(database, ending(first[0]))
    assert tenants(claim(database, by_key(2), by="other")) == ["a"]


def test_both_limits_hold_together(database: Database) -> None:
    """That on all executions, and that on each key."""
    of(database, "a", "a", "b", "b", "c", "c")
    first = claim(database, by_key(1, concurrency=2))
    assert tenants(first) == ["a", "b"]
    assert claim(database, by_key(1, concurrency=2)) == []
    assert tenants(claim(database, by_key(1, concurrency=3))) == ["c"]


def test_a_full_key_in_front_hides_nobody(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of its rows stand before; the others come in the queue's order."""
    monkeypatch.setattr(keys, "LOOKED_AT", 5)
    of(database, *["full"] * 30)
    of(database, "z", "y", "z", "x", None)
    of(database, "urgent", priority=1)
    assert tenants(claim(database, by_key(1, at_most=1))) == ["urgent"]
    assert tenants(claim(database, by_key(1, at_most=1))) == ["full"]
    assert tenants(claim(database, by_key(1, at_most=2))) == ["z", "y"]
    assert tenants(claim(database, by_key(1))) == ["x", None]
    assert claim(database, by_key(1)) == []


def test_of_very_many_keys_none_waits_for_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk sees some of them at a time, but not always the same."""
    monkeypatch.setattr(keys, "LOOKED_AT", 1)
    monkeypatch.setattr(keys, "KEYS_AT_MOST", 3)
    of(database, "full", "full")
    of(database, *"abcdefgh")
    seen: set[str] = set()
    for _ in range(200):
        seen.update(tenants(claim(database, by_key(1, at_most=3))))
    assert seen == {"full", *"abcdefgh"}


def test_a_full_key_costs_no_look_at_its_rows(database: Database) -> None:
    """Ten thousand of them in front: the statements of a claim fetch a thousand rows at most."""
    of(database, *["full"] * 10_000)
    claim(database, by_key(1, at_most=1))
    of(database, "other")
    fetched = 0

    def count(_connection: object, cursor: Any, statement: str, *_more: object) -> None:
        nonlocal fetched
        fetched += statement.lstrip().startswith(("SELECT", "WITH")) and max(cursor.rowcount, 0)

    event.listen(database._engine, "after_cursor_execute", count)
    assert tenants(claim(database, by_key(1))) == ["other"]
    assert fetched <= 100


@pytest.mark.parametrize("looked_at", [1000, 1])
@pytest.mark.parametrize(("most", "held"), [(1, 1), (1, 30), (2, 3)])
def test_what_somebody_has_locked_holds_up_nobody_else(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, looked_at: int, most: int, held: int
) -> None:
    """However much it is, in front of the queue or behind it: what comes next is claimed, within limits."""
    with closing(Database.open(postgres_url)) as database:
        of(database, *["full"] * 2)
        assert len(claim(database, by_key(2))) == 2
        monkeypatch.setattr(keys, "LOOKED_AT", looked_at)
        of(database, "full")
        locked = of(database, *"abcdefghijklmnopqrstuvwxyzabcd"[:held])
        free = of(database, "a", "a", "z2", "z3", None)
        with database.writing() as client:
            client.execute(
                select(schema.executions.c.id).where(schema.executions.c.id.in_(locked)).with_for_update()
            )
            for first in range(0, 4, most):
                assert [one.id for one in claim(database, by_key(2, most))] == free[first : first + most]
        assert keys_running(database) == {"full": 2, "a": 2, "z2": 1, "z3": 1}


@pytest.mark.parametrize("suspects", [False, True])
def test_suspects_are_claimed_apart_by_key_too(
    database: Database, monkeypatch: pytest.MonkeyPatch, suspects: bool
) -> None:
    """In front and behind."""
    of(database, "a", "b", "c")
    for claimed in claim(database, by_key(1)):
        end(database, ending(claimed, "ready", "stopped", suspect=tenants([claimed]) == ["b"]))
    expected = ["b"] if suspects else ["a", "c"]
    for looked_at in (0, 1000):
        monkeypatch.setattr(keys, "LOOKED_AT", looked_at)
        found = claim(database, by_key(1, suspects=suspects))
        assert tenants(found) == expected
        end(database, *[ending(one, "ready", "released") for one in found])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(
        st.tuples(
            st.lists(st.sampled_from("abc"), max_size=6),
            st.integers(1, 6),
            st.integers(1, 3),
            st.integers(0, 3),
            st.sampled_from([0, 2, 1000]),
        ),
        max_size=10,
    )
)
def test_whatever_happens_the_limit_by_key_holds(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    rounds: list[tuple[list[str], int, int, int, int]],
) -> None:
    """Any order of invocations, claims and endings; and nobody is left waiting whose key has room."""
    with database.writing() as connection:  # what an example before this one left
        attempts.recover(connection, NOW, {"t": 3})
    end(database, *map(ending, claim(database, "t")))
    held: list[Claimed] = []
    for invoked, count, limit, ended, looked_at in rounds:
        monkeypatch.setattr(keys, "LOOKED_AT", looked_at)
        of(database, *invoked)
        before = Counter(tenants(held))
        fresh = claim(database, by_key(limit), count=count)
        held += fresh
        now = Counter(tenants(held))
        assert all(now[key] <= max(limit, before[key]) for key in now)
        if not fresh:
            left = claim(database, "t")
            assert all(now[key] >= limit for key in tenants(left))
            end(database, *map(ending, left))
        end(database, *[ending(one) for one in held[:ended]])
        held = held[ended:]


# Where keys come from


def key_of(database: Database, **options: Any) -> str | None:
    (execution,) = invoke(database, "t", **options)
    return view(database, execution).concurrency_key


def test_the_key_is_what_the_payload_says(database: Database) -> None:
    """By what is declared in the database, else by what the client knows; or as it was given."""
    acme = Raw(b'{"tenant": "acme", "user": 7}')
    assert key_of(database, payload=acme) is None
    assert key_of(database, payload=acme, key_path="tenant") == "acme"
    declare(database, concurrency_by_key=KeyLimitSpec(2, "user"))
    assert key_of(database, payload=acme) == "7"
    assert key_of(database, payload=acme, key_path="tenant") == "7"
    assert key_of(database, payload=acme, concurrency_key="mine") == "mine"
    assert key_of(database) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"payload": Raw(b'{"tenant": 1.5}')}, "payload.tenant: expected text"),
        ({"concurrency_key": ""}, "concurrency_key: expected 1 to 500 characters"),
        ({"concurrency_key": "a\0"}, "concurrency_key: expected 1 to 500 characters"),
    ],
)
def test_a_key_that_cannot_be_one_is_refused(database: Database, options: Any, message: str) -> None:
    """Before anything is written."""
    declare(database, concurrency_by_key=KeyLimitSpec(2, "tenant"))
    answer = ask(database, InvokeMany([NewExecution(task="t"), NewExecution(task="t", **options)]))
    assert isinstance(answer, Refused)
    assert message in answer.message
    assert claim(database, "t") == []


def test_a_firing_and_a_retry_have_a_key(database: Database) -> None:
    """The one of the schedule's payload, and the one that it had."""
    declare(database, concurrency_by_key=KeyLimitSpec(1, "tenant"))
    with database.writing() as connection:
        schedules.fire(connection, [Firing("t", "nightly", NOW, b'{"tenant": "acme"}')], NOW)
    (fired,) = claim(database, by_key(1))
    assert view(database, fired.id).concurrency_key == "acme"
    end(database, ending(fired, "failed"))
    ask(database, RetryExecution(fired.id))
    assert view(database, fired.id).concurrency_key == "acme"


# Rates


def rated(database: Database, now: Instant, at_most: int = 100, by: str = "one") -> Claims:
    with database.writing() as connection:
        return claiming.claim(connection, [Wanted("t", at_most, rate=RATE)], 100, by, now)


def begun(database: Database, claimed: Claimed, now: Instant) -> None:
    with database.writing() as connection:
        starts.note(connection, [(claimed.id, claimed.claim)], now)


def test_a_place_is_free_one_period_after_the_start_was_known(database: Database) -> None:
    """Not after the claim; and who asks is told when to come again."""
    invoke(database, *["t"] * 5)
    first, full_until, _ = rated(database, NOW)
    assert (len(first), full_until) == (2, {"t": NOW + UNKNOWN_FOR})  # it may be given back before it begins
    begun(database, first[0], NOW + SECOND)
    begun(database, first[1], NOW + 2 * SECOND)
    assert rated(database, NOW + SPAN, by="two") == Claims([], {"t": NOW + SECOND + SPAN})
    again, full_until, _ = rated(database, NOW + SECOND + SPAN, by="two")
    assert (len(again), full_until) == (1, {"t": NOW + 2 * SECOND + SPAN})


def test_a_start_that_becomes_known_during_a_claim_is_counted_all_the_same(postgres_url: str) -> None:
    """Whichever of the claim's statements its commit comes between: it waits for no lock."""
    one, two = Database.open(postgres_url), Database.open(postgres_url)
    invoke(one, *["t"] * 9)
    unknown = rated(one, NOW).claimed

    def note_one(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if unknown and "count(" in statement and "conductor_starts" in statement:
            begun(two, unknown.pop(), NOW)

    event.listen(one._engine, "after_cursor_execute", note_one)
    assert rated(one, NOW).claimed == []
    assert unknown == []
    one.close()
    two.close()


def test_only_the_first_word_of_a_start_counts(database: Database) -> None:
    """A later one is of its end."""
    invoke(database, *["t"] * 5)
    for one in rated(database, NOW).claimed:
        begun(database, one, NOW)
        begun(database, one, NOW + 5 * SECOND)
    assert len(rated(database, NOW + SPAN).claimed) == 2


def test_a_claim_whose_start_nobody_knows_holds_its_place(database: Database) -> None:
    """It may start at any moment. Once it has ended, it counts from when that is noticed."""
    invoke(database, *["t"] * 5)
    first = rated(database, NOW).claimed
    later = NOW + 100 * SPAN
    assert rated(database, later) == Claims([], {"t": later + UNKNOWN_FOR})
    with database.writing() as connection:
        attempts.recover(connection, later, {"t": 3})
    assert rated(database, later) == Claims([], {"t": later + SPAN})
    assert {one.id for one in rated(database, later + SPAN).claimed} == {one.id for one in first}


def test_what_was_given_back_unbegun_counts_all_the_same(database: Database) -> None:
    """Never too many, even if it had begun after all."""
    invoke(database, *["t"] * 3)
    for one in rated(database, NOW).claimed:
        end(database, ending(one, "ready", "released"))
    assert rated(database, NOW).claimed == []


def test_what_has_not_begun_for_sure_leaves_its_place_to_another(database: Database) -> None:
    """At once; but not once its start is known, nor by a late voice."""
    invoke(database, *["t"] * 5)
    one, two = rated(database, NOW).claimed
    back = msgspec.structs.replace(ending(one, "ready", "released"), outcome=None, frees_start=True)
    begun(database, two, NOW)
    apply_endings(database, back, msgspec.structs.replace(back, execution=two.id, claim=two.claim))
    (again,) = rated(database, NOW).claimed
    apply_endings(database, msgspec.structs.replace(back, execution=again.id, claim=again.claim - 1))
    assert rated(database, NOW).claimed == []


def apply_endings(database: Database, *endings: Ending) -> None:
    """Write endings as the journal does."""
    group = [EndAttempt(one, lambda _late: None, lambda _message: None) for one in endings]
    with database.writing() as connection:
        apply(connection, group, NOW)


def test_a_clock_that_has_gone_back_blocks_for_one_period_only(database: Database) -> None:
    """A start far ahead counts from now."""
    invoke(database, *["t"] * 5)
    for one in rated(database, NOW).claimed:
        begun(database, one, NOW)
    earlier = NOW - 100 * SPAN
    assert rated(database, earlier) == Claims([], {"t": earlier + SPAN})
    assert len(rated(database, earlier + SPAN).claimed) == 2


def test_a_lowered_rate_tells_when_enough_starts_are_forgotten(database: Database) -> None:
    """Not when the first of them is."""
    invoke(database, *["t"] * 5)
    for number, one in enumerate(rated(database, NOW).claimed):
        begun(database, one, NOW + number * SECOND)
    with database.writing() as connection:
        lower = [Wanted("t", 9, rate=RateSpec(1, 10.0))]
        assert claiming.claim(connection, lower, 9, "one", NOW + 3 * SECOND) == Claims(
            [], {"t": NOW + SECOND + SPAN}
        )


def test_starts_of_tasks_without_a_rate_are_forgotten(database: Database) -> None:
    """When the code or the operators no longer limit them; but others may still do so for a while."""
    weekly = Wanted("t", 9, rate=RateSpec(2, 7 * 24 * 3600.0))
    hour = 3600 * SECOND
    invoke(database, *["t"] * 5)
    one, lost = claim(database, weekly)
    begun(database, one, NOW)
    end(database, ending(lost, "ready", "released"))  # without a word that it began

    def forget_all_but(task: str, hours: int) -> None:
        with database.writing() as connection:
            starts.forget_others(connection, [task], NOW + hours * hour)

    forget_all_but("other", hours=23)
    assert claim(database, weekly, now=NOW + 23 * hour) == []
    forget_all_but("t", hours=24)
    assert claim(database, weekly, now=NOW + 24 * hour) == []
    forget_all_but("other", hours=24)
    assert len(claim(database, weekly, now=NOW + 24 * hour)) == 1
    forget_all_but("other", hours=48)
    assert len(claim(database, weekly, now=NOW + 48 * hour)) == 1
