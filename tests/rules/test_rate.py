"""A rate: wherever a period begins, no more starts lie in it than the rate allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conductor_protocol.manifest import RateSpec
from conductor_protocol.units import MICROSECONDS, Instant
from conductor_supervisor.rules import rate as rules

SECOND = MICROSECONDS


def busiest(starts: list[Instant], period: Instant) -> int:
    """Return how many starts lie within one period at most, wherever it begins."""
    return max((sum(first <= at < first + period for at in starts) for first in starts), default=0)


class Places:
    """The starts that count, as the store keeps them."""

    def __init__(self, rate: RateSpec) -> None:
        self.rate = rate
        self.known: list[Instant] = []
        self.unknown: list[tuple[Instant, Instant]] = []
        """When each will start, and when that will be known."""

    def advance(self, now: Instant) -> None:
        self.known += [known for _, known in self.unknown if known <= now]
        self.unknown = [one for one in self.unknown if one[1] > now]
        self.known = sorted(at for at in self.known if at > rules.forgotten(self.rate, now))

    def counted(self) -> int:
        return len(self.known) + len(self.unknown)

    def free_at(self, now: Instant) -> Instant | None:
        number = rules.in_the_way(self.rate, self.counted())
        if number is None:
            return None
        return rules.free_at(self.rate, self.known[number] if number < len(self.known) else None, now)


@given(
    count=st.integers(1, 5),
    seconds=st.sampled_from([1.0, 2.5, 60.0]),
    claims=st.lists(
        st.tuples(
            st.integers(0, 3 * SECOND), st.integers(1, 4), st.integers(0, SECOND), st.integers(0, SECOND)
        ),
        max_size=30,
    ),
)
def test_no_period_has_more_starts_than_the_rate_allows(
    count: int, seconds: float, claims: list[tuple[int, int, int, int]]
) -> None:
    """However long it takes from a claim to the start, and from the start until that is known."""
    rate, now, starts = RateSpec(count, seconds), 0, list[Instant]()
    places = Places(rate)
    for pause, wanted, to_start, to_known in claims:
        now += pause
        places.advance(now)
        for _ in range(min(wanted, rules.room(rate, places.counted()))):
            starts.append(now + to_start)
            places.unknown.append((now + to_start, now + to_start + to_known))
    assert busiest(starts, round(seconds * SECOND)) <= count


@given(
    count=st.integers(1, 5),
    delays=st.lists(st.integers(0, SECOND), min_size=1, max_size=20),
)
def test_whoever_comes_when_told_to_never_comes_in_vain_for_long(count: int, delays: list[int]) -> None:
    """Before the moment that is told there is no place; at it there is, unless a start became known later."""
    rate, now = RateSpec(count, 1.0), 0
    places = Places(rate)
    for delay in delays:
        while (until := places.free_at(now)) is not None:
            places.advance(until - 1)
            assert rules.room(rate, places.counted()) == 0
            assert until > now
            now = until
            places.advance(now)
        assert rules.room(rate, places.counted()) > 0
        places.unknown.append((now, now + delay))


def test_what_a_clock_that_has_gone_back_left_ahead_holds_its_place_for_one_period_only() -> None:
    """Two supervisors' clocks may differ a little; an hour is no little."""
    rate = RateSpec(1, 60.0)
    assert rules.unbelievable(rate, 0) == rules.span(rate) == 60 * SECOND + rules.MARGIN
