"""What comes to us: looks, claims and firings go on whatever the database answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from holdings import NOW, runner, task

from conductor_supervisor import intake as intake_module
from conductor_supervisor.intake import LOOK_AGAIN, Intake
from conductor_supervisor.journal import Journal
from conductor_supervisor.roster import Pool, Roster
from conductor_supervisor.work import Work
from conductor_supervisor.writes import Claim, Look, Seen, Sweep, Write


class Site:
    """An intake between a work and a journal that only write down what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[Write] = []
        self.seconds = 0.0
        monkeypatch.setattr(intake_module, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        roster = Roster({Pool(): 1})
        roster.runners[1] = runner()
        work = SimpleNamespace(
            tasks={"job": task()},
            roster=roster,
            draining=False,
            closed=False,
            clock=SimpleNamespace(now=lambda: NOW),
            place=lambda: None,
            take=lambda taken: None,
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
        claim.then([])
        look.refused("it broke")
    else:
        look.then(Seen(0, None, [], set()))
        claim.refused("it broke")
    assert not site.intake.exhausted()
    assert site.turn(Look) == []
    site.seconds += LOOK_AGAIN
    (again,) = site.turn(Look)
    assert isinstance(again, Look)


def test_expired_executions_are_removed_at_once_again_while_there_are_more(site: Site) -> None:
    """Else once a minute."""
    (sweep,) = site.turn(Sweep)
    assert isinstance(sweep, Sweep)
    assert site.turn(Sweep) == []
    sweep.then(1000)
    assert len(site.turn(Sweep)) == 1
