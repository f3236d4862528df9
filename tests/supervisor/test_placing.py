"""What becomes of executions that are claimed and have not begun: a runner takes them, or the store again."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

import pytest
from holdings import NOW, held, runner, task
from msgspec import structs

from conductor_protocol.manifest import TaskSpec
from conductor_protocol.messages import Assign, Recall
from conductor_supervisor import work as work_module
from conductor_supervisor.clock import Clock
from conductor_supervisor.journal import Journal
from conductor_supervisor.lease import Lease
from conductor_supervisor.roster import Held, Pool, Roster, Task
from conductor_supervisor.router import Router
from conductor_supervisor.store.attempts import Ending
from conductor_supervisor.store.tasks import Kind
from conductor_supervisor.work import LONGEST_WAIT, Work
from conductor_supervisor.writes import EndAttempt, Taken, Write

SHARED = Pool("default", "shared")


class Hands:
    """A work with one runner, between a router and a journal that only write down what they are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spec: TaskSpec, pool: Pool) -> None:
        self.later = 0.0
        monkeypatch.setattr(work_module, "time", SimpleNamespace(monotonic=self.monotonic))
        self.task = task(spec, pool)
        self.sent: list[object] = []
        self.written: list[Write] = []
        self.runner = runner(pool=pool)
        roster = Roster({pool: 1}, at_once=2)
        roster.runners[1] = self.runner
        router = SimpleNamespace(send=lambda _number, _channel, message: self.sent.append(message))
        self.work = Work(
            {spec.name: self.task},
            roster,
            cast(Router, router),
            cast(Journal, SimpleNamespace(submit=self.written.append)),
            cast(Clock, SimpleNamespace(now=lambda: NOW)),
            ended=lambda _held, _ending: None,
            lease=Lease(),
        )

    def monotonic(self) -> float:
        """Return the time, some seconds on."""
        return time.monotonic() + self.later

    def runs(self, execution: str, for_seconds: float = 0.0, of: Task | None = None) -> Held:
        """Let the runner run an execution, for so long already."""
        one = held(execution, of=of or self.task)
        self.runner.hand(one, 0.02)
        assert one.began is not None
        one.began -= for_seconds
        return one

    def take(self, *executions: str) -> None:
        """Take what a claim has brought."""
        self.work.take(claimed(execution, self.task) for execution in executions)

    def assigned(self) -> list[str]:
        """Return the executions that were sent to the runner."""
        return [one.execution for sent in self.sent if isinstance(sent, Assign) for one in sent.assignments]

    def endings(self) -> list[EndAttempt]:
        """Return what was to be written of endings."""
        return [write for write in self.written if isinstance(write, EndAttempt)]

    def given_back(self) -> list[Ending]:
        """Return the endings themselves."""
        return [write.ending for write in self.endings()]


def claimed(execution: str, of: Task) -> Taken:
    """Return what a claim brings."""
    return held(execution, of=of).taken


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """One runner that executes one after another."""
    return Hands(monkeypatch, TaskSpec(name="job"), Pool())


def test_what_finds_no_runner_goes_back_to_the_store(hands: Hands) -> None:
    """Not at once, for short ones end in a moment. Ready, uncharged, in its old place, without an attempt."""
    hands.runs("long", for_seconds=10.0)
    hands.take("waiting")
    assert not hands.given_back()
    hands.later = LONGEST_WAIT
    hands.work.place()
    (ending,) = hands.given_back()
    assert (ending.execution, ending.state, ending.outcome) == ("waiting", "ready", None)
    assert not ending.charged
    assert ending.due is None
    assert hands.work.roster.waiting == []
    assert list(hands.runner.held) == ["long"]


def test_what_a_runner_has_given_back_waits_no_longer_than_anything_else(hands: Hands) -> None:
    """It was claimed ahead for a runner that turned out to be busy."""
    hands.task.seconds = 0.001  # as was known until now
    hands.take("long", "behind")
    behind = hands.runner.take_back("behind", 1)
    first = hands.runner.first()
    assert behind is not None
    assert first is not None
    first.began = time.monotonic() - 1.0
    hands.later = 10.0
    hands.work.give_back(behind)
    hands.work.place()
    assert not hands.given_back()
    hands.later += LONGEST_WAIT
    hands.work.place()
    assert [ending.execution for ending in hands.given_back()] == ["behind"]


def test_a_runner_that_is_free_within_the_moment_takes_what_waits(hands: Hands) -> None:
    """Nothing is given back for a few milliseconds."""
    one = hands.runs("short")
    hands.take("waiting")
    hands.later = LONGEST_WAIT / 2
    hands.runner.take_back(one.id, one.claim)
    hands.work.place()
    assert hands.assigned() == ["waiting"]
    assert not hands.given_back()


def test_what_has_lived_through_a_death_is_forgotten_when_it_goes_elsewhere(hands: Hands) -> None:
    """Else its task's executions would be handed out one by one for ever."""
    hands.runs("other")
    survivor = claimed("survivor", hands.task)
    hands.work.take([Taken(structs.replace(survivor.claimed, deaths=1), [], 0)])
    assert hands.work.roster.survivors == {"job": {"survivor"}}
    (given_back,) = hands.endings()
    given_back.then(False)
    assert hands.work.roster.survivors == {}


@pytest.mark.parametrize("reloads", [1, 2])
def test_a_claim_that_comes_after_its_task_has_gone_is_given_back(hands: Hands, reloads: int) -> None:
    """However many reloads later: it may have waited for somebody's lock."""
    late = claimed("late", hands.task)
    for _ in range(reloads):
        hands.work.adopt({})
    hands.work.take([late])
    (ending,) = hands.given_back()
    assert (ending.execution, ending.claim, ending.state, ending.outcome) == ("late", 1, "ready", None)


def test_a_pause_gives_back_what_waits_and_what_comes(hands: Hands) -> None:
    """Nothing of it is handed to a runner any more, also where the claim was under way."""
    hands.runs("long")
    hands.take("waiting")
    hands.work.pause({("task", "job")})
    hands.take("on its way")
    assert [(one.execution, one.state) for one in hands.given_back()] == [
        ("waiting", "ready"),
        ("on its way", "ready"),
    ]
    assert hands.assigned() == []
    assert list(hands.runner.held) == ["long"]


@pytest.mark.parametrize("paused", [("task", "job"), ("queue", "default")])
def test_a_pause_recalls_what_a_runner_has_not_begun(hands: Hands, paused: tuple[Kind, str]) -> None:
    """What it runs goes on; the others come back, and go to the store."""
    hands.task.seconds = 0.001
    hands.take("runs", "behind")
    hands.work.pause({paused})
    hands.work.pause({paused})  # as the next look sees it
    assert [message for message in hands.sent if not isinstance(message, Assign)] == [Recall()]
    behind = hands.runner.take_back("behind", 1)
    assert behind is not None
    hands.work.give_back(behind)
    hands.work.place()
    assert [one.execution for one in hands.given_back()] == ["behind"]
    assert list(hands.runner.held) == ["runs"]


def test_a_pause_of_another_task_recalls_nothing(hands: Hands) -> None:
    """Only what must not begin comes back."""
    hands.task.seconds = 0.001
    hands.take("runs", "behind")
    hands.work.pause({("task", "another"), ("queue", "another")})
    hands.take("more")
    assert hands.assigned() == ["runs", "behind", "more"]
    assert not any(isinstance(message, Recall) for message in hands.sent)
