"""What comes to us: looks, claims and firings go on whatever the database answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from holdings import DEFAULT, NOW, held, runner, task

from conductor_protocol.manifest import RateSpec, TaskSpec
from conductor_supervisor import endings
from conductor_supervisor import intake as intake_module
from conductor_supervisor.intake import LOOK_AGAIN, Intake, Queue
from conductor_supervisor.journal import Journal
from conductor_supervisor.roster import Pool, Roster
from conductor_supervisor.work import Work
from conductor_supervisor.writes import Brought, Claim, Look, Seen, Sweep, Write

RATED = TaskSpec(name="job", rate=RateSpec(2, 10.0))


class Site:
    """An intake between a work and a journal that only write down what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spec: TaskSpec = RATED, pool: Pool = DEFAULT) -> None:
        self.written: list[Write] = []
        self.seconds = 0.0
        self.now = NOW
        monkeypatch.setattr(intake_module, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        roster = Roster({pool: 1}, at_once=10)
        roster.runners[1] = runner(1, pool)
        work = SimpleNamespace(
            tasks={"job": task(spec, pool)},
            roster=roster,
            draining=False,
            closed=False,
            clock=SimpleNamespace(now=lambda: self.now),
            place=lambda: None,
            take=lambda taken: None,
            pause=lambda paused: None,
            paused=set(),
            may_begin=lambda task, now: True,
        )
        journal = SimpleNamespace(submit=self.written.append)
        self.intake = Intake(cast(Work, work), cast(Journal, journal), "me", [])

    def turn(self, *kinds: type[Write]) -> list[Write]:
        """Let a turn of the loop pass; return the writes of these kinds that it made."""
        self.written.clear()
        self.intake.tick()
        self.intake.turn()
        return [write for write in self.written if isinstance(write, kinds)]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    """An intake that has not looked yet."""
    return Site(monkeypatch)


@pytest.mark.parametrize("kind", [Look, Claim])
def test_a_look_follows_a_look_or_a_claim_that_failed(site: Site, kind: type[Look | Claim]) -> None:
    """By itself, but not at once: what is wrong may take a while."""
    look, claim = site.turn(Look, Claim)
    assert isinstance(look, Look)
    assert isinstance(claim, Claim)
    if kind is Look:
        claim.then(Brought([], {}))
        look.refused("it broke")
    else:
        look.then(Seen(0, None, [], set()))
        claim.refused("it broke")
    assert not site.intake.exhausted()
    assert site.turn(Look) == []
    site.seconds += LOOK_AGAIN
    (again,) = site.turn(Look)
    assert isinstance(again, Look)


def test_what_is_due_and_locked_by_somebody_is_looked_at_now_and_then(site: Site) -> None:
    """It does not keep the loop awake, and what is due next is not late for it."""
    (look,) = site.turn(Look)
    assert isinstance(look, Look)
    look.then(Seen(0, NOW + 400_000, [], set(), held_up=True))
    assert site.intake.seconds_to_next(site.now) == 0.4
    assert site.turn(Look) == []
    assert not site.intake.exhausted()
    site.seconds += LOOK_AGAIN
    assert len(site.turn(Look)) == 1


def test_a_look_that_the_database_does_not_answer_is_waited_for(site: Site) -> None:
    """What is due meanwhile neither keeps the loop awake nor calls for another look."""
    (look,) = site.turn(Look)
    assert isinstance(look, Look)
    look.then(Seen(0, NOW + 1, [], set()))
    site.now = NOW + 1
    (look,) = site.turn(Look)
    assert isinstance(look, Look)
    assert site.intake.seconds_to_next(site.now) is None
    assert site.turn(Look) == []
    look.then(Seen(1, None, [], set()))
    assert site.turn(Look) == []


def test_after_a_look_that_failed_the_next_waits_though_something_is_due(site: Site) -> None:
    """What is wrong may take a while."""
    (look,) = site.turn(Look)
    assert isinstance(look, Look)
    look.then(Seen(0, NOW + 1, [], set()))
    site.now = NOW + 1
    (look,) = site.turn(Look)
    assert isinstance(look, Look)
    look.refused("it broke")
    assert site.turn(Look) == []
    assert site.intake.seconds_to_next(site.now) is None


def test_a_claim_that_has_not_looked_at_everything_does_not_exhaust_the_queue(site: Site) -> None:
    """The rest is looked at when the claim said."""
    look, claim = site.turn(Look, Claim)
    assert isinstance(look, Look)
    assert isinstance(claim, Claim)
    look.then(Seen(0, None, [], set()))
    claim.then(Brought([], {}, look_again_at=site.seconds + 0.03))
    assert site.turn(Look) == []
    assert not site.intake.exhausted()
    site.seconds += 0.03
    (again,) = site.turn(Look)
    assert isinstance(again, Look)


def test_a_task_that_has_used_up_its_rate_is_claimed_again_when_a_place_is_free(site: Site) -> None:
    """Not before, whatever stirs; then at once; and the loop knows when to wake."""
    (claim,) = site.turn(Claim)
    assert isinstance(claim, Claim)
    assert claim.wanted[0].rate == RateSpec(2, 10.0)
    claim.then(Brought([], {"job": NOW + 5_000_000}))
    assert site.intake.seconds_to_next(NOW) == 5.0
    site.intake.stir()
    assert site.turn(Claim) == []
    site.now = NOW + 5_000_000
    assert len(site.turn(Claim)) == 1
    assert site.intake.seconds_to_next(site.now) is None


def test_a_clock_that_has_gone_back_does_not_keep_a_rated_task_waiting(site: Site) -> None:
    """What was said of a later moment holds no more: the database is asked again."""
    (claim,) = site.turn(Claim)
    assert isinstance(claim, Claim)
    claim.then(Brought([], {"job": NOW + 5_000_000}))
    site.now = NOW - 1
    assert len(site.turn(Claim)) == 1


def test_a_place_under_a_rate_that_was_not_used_is_claimed_at_once(site: Site) -> None:
    """The execution that had it was given back before it began."""
    (claim,) = site.turn(Claim)
    assert isinstance(claim, Claim)
    one = held(of=task(RATED))
    claim.then(Brought([one.taken], {"job": NOW + 5_000_000}))
    assert site.turn(Claim) == []
    site.intake.ended(one, endings.unbegun(one, NOW))
    assert len(site.turn(Claim)) == 1


def test_expired_executions_are_removed_at_once_again_while_there_are_more(site: Site) -> None:
    """Else once a minute."""
    (sweep,) = site.turn(Sweep)
    assert isinstance(sweep, Sweep)
    assert site.turn(Sweep) == []
    sweep.then(1000)
    assert len(site.turn(Sweep)) == 1


def test_after_a_give_back_no_more_is_claimed_than_finds_a_runner_for_sure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then twice as much each time: what is given back was never much more than what ran before."""
    site = Site(monkeypatch, TaskSpec(name="job"))
    short, wanted = site.intake._queues[Queue(Pool())][0], []
    short.seconds = 0.001
    for _ in range(7):
        (claim,) = site.turn(Claim)
        assert isinstance(claim, Claim)
        wanted.append(claim.count)
        if len(wanted) == 1:
            one = held(of=short)
            site.intake.ended(one, endings.unbegun(one, NOW))
            claim.then(Brought([], {}))
        else:
            claim.then(Brought([one.taken] * claim.count, {}))
    assert wanted == [20, 1, 2, 4, 8, 16, 20]


def test_a_claim_knows_which_task_was_served_last_until_nothing_waits(site: Site) -> None:
    """So tasks take turns, also where each claim brings one execution."""
    (claim,) = site.turn(Claim)
    assert isinstance(claim, Claim)
    assert claim.wanted[0].served == 0
    claim.then(Brought([held("a").taken], {}))
    (claim,) = site.turn(Claim)
    assert isinstance(claim, Claim)
    assert claim.wanted[0].served > 0
    claim.then(Brought([], {}))
    site.intake.stir()
    (claim,) = site.turn(Claim)
    assert isinstance(claim, Claim)
    assert claim.wanted[0].served == 0


def test_a_claim_goes_with_each_look_and_another_follows_only_what_changes_the_answer(site: Site) -> None:
    """What the look makes ready is claimed in its transaction; what was paused until now is not."""
    look, claim = site.turn(Look, Claim)
    assert isinstance(look, Look)
    assert isinstance(claim, Claim)
    look.then(Seen(0, None, [], set()))
    claim.then(Brought([], {}))
    assert site.turn(Claim) == []
    site.intake.look()
    look, claim = site.turn(Look, Claim)
    assert isinstance(look, Look)
    assert isinstance(claim, Claim)
    look.then(Seen(0, None, [], {("task", "other")}))
    claim.then(Brought([], {}))
    assert len(site.turn(Claim)) == 1


def test_a_claim_of_suspects_that_finds_none_forgets_no_turn_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shared pool is claimed for in two ways, and hardly ever has suspects."""
    pool = Pool(isolation="shared")
    site = Site(monkeypatch, TaskSpec(name="job", isolation="shared"), pool)
    ordinary, suspects = site.turn(Claim)
    assert isinstance(ordinary, Claim)
    assert isinstance(suspects, Claim)
    ordinary.then(Brought([held("a").taken], {}))
    suspects.then(Brought([], {}))
    site.intake.stir()
    again, _ = site.turn(Claim)
    assert isinstance(again, Claim)
    assert again.wanted[0].served > 0
