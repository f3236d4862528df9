"""Who holds what, in memory: the runners and the executions in their hands.

The database knows that an execution is running; only the roster knows where. Owned by the loop thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from conductor_protocol.manifest import Isolation, TaskSpec
from conductor_protocol.operations import AttemptOutcome, ProgressView
from conductor_protocol.recorder import Reading
from conductor_protocol.units import Instant
from conductor_supervisor.processes.spawn import Child
from conductor_supervisor.rules import admission
from conductor_supervisor.rules.blame import Blame
from conductor_supervisor.rules.sharing import Hands
from conductor_supervisor.rules.windows import Windows
from conductor_supervisor.writes import Taken

RunnerPhase: TypeAlias = Literal["starting", "ready", "retiring", "stopping"]
"""``retiring``: it finishes what it runs and then ends; another has its slot already."""

Rung: TypeAlias = Literal["stacks", "SIGTERM", "SIGKILL"]
"""The ways to end a process, from the mildest; ``stacks`` only has it say where it is."""

SILENT = 5.0
"""Seconds after which a runner that is not heard gets no more work."""


class Pool(NamedTuple):
    """The runners that serve one queue in one way; each takes work of this pool alone."""

    queue: str = "default"
    isolation: Isolation = "runner"


class Task:
    """One task as it is run: its settings, its windows, and what is known of its runs."""

    __slots__ = ("pool", "seconds", "spec", "windows")

    def __init__(self, spec: TaskSpec, windows: Windows, pool: Pool) -> None:
        self.spec = spec
        self.windows = windows
        self.pool = pool
        self.seconds: float | None = None
        """How long its runs take of late; None until the first has ended."""

    @property
    def handed_singly(self) -> bool:
        """Whether nothing may wait behind an execution in its runner's hands, nor it behind others for long.

        A fresh runner takes only one. And a start that a rate has given a place should come soon.
        """
        return self.pool.isolation == "fresh" or self.spec.rate is not None

    @property
    def is_short(self) -> bool:
        """Whether its last runs were short."""
        return self.seconds is not None and self.seconds <= admission.SHORT

    def took(self, seconds: float) -> None:
        """Learn from a run: quickly when it was long, slowly when it was short."""
        if self.handed_singly:
            return  # and so it stays unknown, which is taken for long
        if self.seconds is None:
            self.seconds = seconds
        else:
            difference = seconds - self.seconds
            self.seconds += difference * (0.5 if difference > 0 else 0.2)


@dataclass(slots=True)
class Overdue:
    """An attempt, or its step, has taken longer than it may."""

    cause: str
    """In words, such as ``over its timeout of 10m``."""
    since: float
    """Monotonic moment at which its handler was told."""


@dataclass(slots=True)
class StopOrder:
    """Why the supervisor stops a runner, and what becomes of the execution that it stops for."""

    held: Held | None
    """None: a shared runner is stopped for what it does as a whole."""
    outcome: AttemptOutcome
    """``crashed`` charges the attempt; ``cancelled`` and ``stopped`` do not."""
    cause: str
    """In words, as in ``was stopped: over its timeout of 10m``."""
    reason: str | None = None
    stacks_asked: bool = False
    """Its stacks are on their way already."""


@dataclass(slots=True)
class Interruption:
    """A handler of a shared runner was told to end where it is; if it does not, the runner is stopped."""

    order: StopOrder
    at: float
    """Monotonic."""
    seen: Blame
    """Where the handler was."""


@dataclass(slots=True)
class Held:
    """An execution in our hands: claimed, and not ended as far as we know."""

    taken: Taken
    task: Task
    attempt: int
    """The number of this attempt, from 1."""
    claimed: Instant
    id: str = field(init=False)
    """The execution's id."""
    claim: int = field(init=False)
    """The number of our claim on it."""
    cost: float = 0.0
    """Seconds that it was expected to take when it was handed to its runner."""
    waits_since: float = 0.0
    """Monotonic moment since when it waits for a runner."""
    began: float | None = None
    """Monotonic moment from which its time counts: when it came to be the first in its runner's hands."""
    cancelled: str | None = None
    """The reason, once a cancellation is wanted; may be empty."""
    cancel_pushed: float | None = None
    overdue: Overdue | None = None
    window_pushed: bool = False
    interruption: Interruption | None = None
    step: str | None = None
    step_deadline: float | None = None
    progress: ProgressView | None = None
    progress_kept: bool = True
    may_have_begun: bool = False
    """It was in the hands of a runner that died, whose page may have told nothing."""
    start_noted: bool = False
    """Of a task with a rate: its start is written down."""

    def __post_init__(self) -> None:
        self.id = self.taken.claimed.id
        self.claim = self.taken.claimed.claim

    @property
    def runs_alone(self) -> bool:
        """Whether nothing else may be in its runner's hands: see :attr:`Roster.survivors`."""
        return self.taken.claimed.deaths > 0 and self.task.pool.isolation != "shared"

    @property
    def suspect(self) -> bool:
        """Whether it must run alone: see ``rules.suspicion``."""
        claimed = self.taken.claimed
        return (claimed.suspect or claimed.deaths > 0) and self.task.pool.isolation == "shared"


@dataclass(slots=True)
class Runner:
    """One runner process and what is in its hands, in the order in which it runs them."""

    number: int
    """Unique for the life of the supervisor."""
    slot: Slot
    child: Child
    heard: float
    """When it was last heard, monotonic; at first, when it was started."""
    live_until: float | None = None
    """Until when we have told it that it may live, by ``uptime``; None: for ever, or nothing yet."""
    heard_until: float | None = None
    """The same as it was when the runner was last heard: so much has reached it."""
    unheard_since: float | None = None
    """Since when, by ``uptime``, we have told it more than that; None: we have not."""
    phase: RunnerPhase = "starting"
    channels: set[str] = field(default_factory=set)
    held: dict[str, Held] = field(default_factory=dict)
    load: float = 0.0
    """Expected seconds of work in hand."""
    recalled: bool = False
    """A recall is under way."""
    recall_from: float = 0.0
    """Monotonic moment before which there is no other, as the last one has brought nothing."""
    read_early: set[tuple[str, int]] = field(default_factory=set)
    """The executions and claims whose reports were read from its outbox, and are still to come."""
    stop_order: StopOrder | None = None
    ended: tuple[str, int] | None = None
    """The execution, with its claim, that has last ended in it, as far as we are concerned."""
    stop_said: bool = False
    """It will end when what it has in hand is done, and gets no more."""
    leaving: float | None = None
    """Monotonic moment since when it was seen to have nothing to do but to end."""
    ladder: list[tuple[float, Rung]] = field(default_factory=list)
    """What is still to be done to end its process, each at a monotonic moment, the next one last."""
    kill_sent: bool = False
    memory_seen: float = 0.0
    """Monotonic moment of the last look at its memory."""
    lost: bool = False
    """It ends because our lease was not renewed; who was idle needs no line in the log."""
    silence_told: bool = False
    """A silence that goes on has been logged."""

    @property
    def shared(self) -> bool:
        """Whether it runs all that is in its hands at once."""
        return self.slot.pool.isolation == "shared"

    def first(self) -> Held | None:
        """Return the execution that it runs, as far as we know; if shared, the one it has had longest."""
        return next(iter(self.held.values()), None)

    def running(self) -> list[Held]:
        """Return what it runs, as far as we know."""
        return list(self.held.values())[: None if self.shared else 1]

    def behind(self) -> list[Held]:
        """Return what is in its hands and has not begun, as far as we know."""
        return [] if self.shared else list(self.held.values())[1:]

    def answerable(self) -> Held | None:
        """Return the execution that answers for what the runner does; None if it may be any of several."""
        return None if self.shared and len(self.held) > 1 else self.first()

    def reading(self, held: Held) -> Reading | None:
        """Return what the flight recorder says of an execution in its hands; None: nothing, or damaged."""
        recorder = self.child.recorder
        readings = recorder.read_places() if self.shared else [recorder.read()]
        return next(
            (r for r in readings or () if r and (r.execution, r.claim) == (held.id, held.claim)), None
        )

    def is_late(self, now: float) -> bool:
        """Tell whether what it runs has turned out long: nothing more should wait behind it."""
        first = self.first()
        return first is not None and first.began is not None and now - first.began > admission.LATE_AFTER

    def load_ahead(self) -> float:
        """Return the expected seconds of work that waits behind what it runs; zero only if it runs nothing.

        What is long counts itself: nothing should wait behind it.
        """
        first = self.first()
        if first is None or first.cost >= admission.BUDGET:
            return self.load
        return max(self.load - first.cost, admission.LEAST)

    def is_idle(self, now: float) -> bool:
        """Tell whether it waits for work."""
        return not self.held and self.takes_work(now)

    def recall_at(self, after: float) -> float:
        """Return when to recall what waits behind its first execution, if that may take so many seconds.

        Monotonic; infinite where nothing waits, or a recall is under way.
        """
        if len(self.held) < 2 or self.shared or self.recalled or self.stop_order is not None:
            return math.inf
        first = self.first()
        if first is None or first.began is None:
            return math.inf
        return max(first.began + after, self.recall_from)

    def takes_work(self, now: float) -> bool:
        """Tell whether more may be handed to it."""
        return self.phase == "ready" and not self.stop_said and now - self.heard < SILENT

    def hand(self, held: Held, cost: float) -> None:
        """Note that an execution is handed to it, which is expected to take ``cost`` seconds."""
        if self.shared or not self.held:
            held.began = time.monotonic()
        held.cost = cost
        self.held[held.id] = held
        self.load += cost

    def take_back(self, execution: str, claim: int) -> Held | None:
        """Take an execution out of its hands; None if it is not there under this claim.

        Time begins to count for the next.
        """
        held = self.held.get(execution)
        if held is None or held.claim != claim:
            return None
        del self.held[execution]
        following = self.first()
        if following is None:
            self.load = 0.0
        else:
            self.load = max(0.0, self.load - held.cost)
            if following.began is None:
                following.began = time.monotonic()
        if len(self.held) <= 1:
            self.recalled = False
        return held


@dataclass(slots=True)
class Slot:
    """A place for one runner: when its process ends, another takes the place."""

    number: int
    pool: Pool
    runner: Runner | None = None
    restarts: int = 0
    failures: int = 0
    """Deaths in a row before the runner was ready."""
    not_before: float = 0.0
    """Monotonic moment before which no new runner is started here."""
    note: str = ""


class Roster:
    """All slots, runners and executions in our hands."""

    def __init__(self, pools: Mapping[Pool, int], at_once: int = 1) -> None:
        """
        :param pools: how many runners each pool has at work at most.
        :param at_once: how many executions a shared runner runs at once.
        """
        self.at_once = at_once
        self.slots: list[Slot] = []
        self._at_work_at_most: dict[Pool, int] = {}
        self.set_pools(pools)
        self.runners: dict[int, Runner] = {}
        self.waiting: list[Held] = []
        """Claimed, but in no runner's hands: given back by one, or left over."""
        self.survivors: dict[str, set[str]] = {}
        """By task: executions that were running when a supervisor died. Each is run alone until it has ended,
        so that another death would tell which was running."""
        self._next_number = 1

    def serves(self, pool: Pool) -> bool:
        """Tell whether a pool has runners; the work of one that has none is for other machines."""
        return self._at_work_at_most.get(pool, 0) > 0

    def set_pools(self, pools: Mapping[Pool, int]) -> None:
        """Have as many runners at work for each pool; the slots of other pools are no longer filled.

        A fresh runner lives for one execution. So that the next need not wait until one is born, there are
        twice as many, of which one half waits ready.
        """
        slots = [slot for slot in self.slots if slot.pool in pools]
        number = max((slot.number for slot in self.slots), default=0)
        for pool, count in pools.items():
            wanted = count * (2 if pool.isolation == "fresh" else 1)
            for _ in range(wanted - sum(slot.pool == pool for slot in slots)):
                number += 1
                slots.append(Slot(number, pool))
        self.slots = slots
        self._at_work_at_most = dict(pools)

    def retiring(self) -> list[Runner]:
        """Return the runners whose slot is another's, or nobody's."""
        return [runner for runner in self.runners.values() if runner.slot.runner is not runner]

    def new_number(self) -> int:
        """Return a number that no runner has had."""
        number = self._next_number
        self._next_number += 1
        return number

    def loads(self, pool: Pool) -> dict[int, float]:
        """Return the load of each runner of a pool that takes work, by its number."""
        now = time.monotonic()
        loads = {
            runner.number: runner.load_ahead()
            for runner in self.runners.values()
            if runner.slot.pool == pool and runner.takes_work(now) and not runner.is_late(now)
        }
        if pool.isolation != "fresh":
            return loads
        at_work = sum(bool(runner.held) for runner in self.runners.values() if runner.slot.pool == pool)
        left = max(0, self._at_work_at_most.get(pool, 0) - at_work)
        return dict(list(loads.items())[:left])

    def hands(self, pool: Pool) -> dict[int, Hands]:
        """Return what each runner of a shared pool that takes work holds, by its number."""
        now = time.monotonic()
        return {
            runner.number: Hands(len(runner.held), any(held.suspect for held in runner.held.values()))
            for runner in self.runners.values()
            if runner.slot.pool == pool and runner.takes_work(now)
        }

    def recalls(self) -> Iterator[tuple[Runner, float]]:
        """Give each runner, with the moment at which what waits behind its first execution is recalled."""
        now = time.monotonic()
        idle = {runner.slot.pool for runner in self.runners.values() if runner.is_idle(now)}
        for runner in self.runners.values():
            after = admission.LATE_AFTER if runner.slot.pool in idle else admission.RECALL_AFTER
            yield runner, runner.recall_at(after)

    def seconds_of(self, task: Task) -> float | None:
        """Return how long a task's runs take; None, as if nobody knew, while survivors are run alone."""
        return None if self.survivors.get(task.spec.name) else task.seconds

    def note_survivor(self, held: Held) -> None:
        """An execution that has lived through a supervisor's death is in our hands."""
        self.survivors.setdefault(held.task.spec.name, set()).add(held.id)

    def forget_survivor(self, held: Held) -> None:
        """An execution is not in our hands any more."""
        if not self.survivors:  # as always, but after a death
            return
        of_task = self.survivors.get(held.task.spec.name, set())
        of_task.discard(held.id)
        if not of_task:
            self.survivors.pop(held.task.spec.name, None)

    def find(self, execution: str) -> tuple[Runner | None, Held] | None:
        """Return an execution in our hands, and its runner if it has one."""
        for runner in self.runners.values():
            if execution in runner.held:
                return runner, runner.held[execution]
        for held in self.waiting:
            if held.id == execution:
                return None, held
        return None

    def empty_handed(self) -> bool:
        """Tell whether no execution is in our hands."""
        return not self.waiting and not any(r.held for r in self.runners.values())
