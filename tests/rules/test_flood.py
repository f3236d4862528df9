"""A flood of like lines is shown in its first lines, and then counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conductor_supervisor.rules.flood import Flood


def test_the_first_lines_of_a_period_are_shown_and_the_others_counted() -> None:
    """The count is told once, when the period is over."""
    flood: Flood[str] = Flood(at_most=3, period=10.0)
    assert [flood.shows("a", 0.1 * n) for n in range(10)] == [True] * 3 + [False] * 7
    assert flood.left_out(9.9) == []
    assert flood.left_out(10.0) == [("a", 7)]
    assert flood.left_out(10.0) == []


def test_keys_are_counted_each_by_itself() -> None:
    """One task's flood hides nothing of another's."""
    flood: Flood[str] = Flood(at_most=1, period=10.0)
    assert [flood.shows(key, 0.0) for key in "aab"] == [True, False, True]
    assert flood.left_out(10.0) == [("a", 1)]


def test_a_new_period_shows_lines_again() -> None:
    """Also where nobody has asked for the count of the last one: it is kept."""
    flood: Flood[str] = Flood(at_most=1, period=10.0)
    assert [flood.shows("a", at) for at in (0.0, 1.0, 10.0, 11.0)] == [True, False, True, False]
    assert flood.left_out(20.0) == [("a", 2)]


def test_at_the_end_everything_is_told() -> None:
    """Of periods that are not over, too."""
    flood: Flood[str] = Flood(at_most=1, period=10.0)
    assert [flood.shows("a", 0.0) for _ in range(3)] == [True, False, False]
    assert flood.all_left_out() == [("a", 2)]
    assert flood.all_left_out() == []


@given(
    lines=st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=60),
    looks=st.sets(st.integers(0, 59)),
)
def test_every_line_is_shown_or_counted_and_the_shown_are_few(
    lines: list[tuple[str, float]], looks: set[int]
) -> None:
    """Whenever the counts are asked for, nothing is lost and nothing is counted twice."""
    flood: Flood[str] = Flood(at_most=2, period=5.0)
    now = 0.0
    shown: list[tuple[str, float]] = []
    told = 0
    for number, (key, wait) in enumerate(lines):
        now += wait
        if flood.shows(key, now):
            shown.append((key, now))
        if number in looks:
            told += sum(count for _, count in flood.left_out(now))
    told += sum(count for _, count in flood.all_left_out())
    assert len(shown) + told == len(lines)
    for key, at in shown:
        assert sum(other == key and at <= then < at + 5.0 for other, then in shown) <= 4
