"""What the supervisor meets instead of the machine's threads and sockets; its loop is the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulated.workload import LEASE

if TYPE_CHECKING:
    from simulated.world import World

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from conductor_protocol import messages as m
from conductor_protocol.codec import pack, unpack_from_runner
from conductor_protocol.conversation import Phase, next_phase
from conductor_supervisor.clock import Clock
from conductor_supervisor.journal import Journal
from conductor_supervisor.lease import Lease
from conductor_supervisor.store.database import Database
from conductor_supervisor.supervisor import Supervisor
from conductor_supervisor.writes import Effect


def lease_in(world: World) -> Lease:
    """Return a lease that is renewed in the world's time."""
    world.lease_ends = world.now + LEASE
    return Lease(LEASE, world.now)


def renew(world: World, lease: Lease) -> None:
    """Renew the lease, unless the database takes nothing."""
    if world.supervisor is None or (world.now < world.no_renewals_until and not world.calm):
        return
    journal, at = world.supervisor._journal, world.now
    assert isinstance(journal, SimulatedJournal)
    world.lease_ends = at + LEASE  # from here on, or any later moment
    world.after(world.delay(), partial(journal._bring, [partial(lease.renewed, at)]))


class SimulatedJournal(Journal):
    """Commits the real groups in the world's time. A supervisor's death takes what is not committed."""

    def __init__(
        self,
        world: World,
        database: Database,
        clock: Clock,
        changed: Effect,
        member: str | None,
        look_interval: Callable[[], float],
    ) -> None:
        super().__init__(database, clock, changed, member, look_interval)
        self._world = world
        self._committing = False
        self._arrives = 0.0
        self.dead = False

    def hand_over(self) -> None:
        """Give what has been gathered to the store."""
        super().hand_over()
        self._begin()

    def die(self) -> None:
        """End as a thread does whose process ends."""
        self.close(0)

    def close(self, timeout: float) -> bool:
        """Let go of the pipe."""
        self.dead = True
        self._thread.run = lambda: None  # type: ignore[method-assign]
        self._thread.start()
        return super().close(timeout)

    def _begin(self) -> None:
        if not self._committing and not self._writes.empty() and not self.dead:
            self._committing = True
            self._world.after(self._world.delay(), self._commit_group)

    def _commit_group(self) -> None:
        if self.dead:
            return
        group = self._next_group()
        assert group
        effects = self._commit(group, self._make_together)
        self._arrives = max(self._arrives, self._world.now + self._world.delay())
        self._world.after(self._arrives - self._world.now, partial(self._bring, effects))
        self._committing = False
        self._begin()

    def _bring(self, effects: list[Effect]) -> None:
        if not self.dead:
            self._give_back(effects)
            self._world.woken = True


class SimulatedRouter:
    """Messages under way. As the real one: what a runner said before it is forgotten may still arrive."""

    endpoint = "ipc://nowhere"
    offenders: ClassVar[dict[int, str]] = {}  # simulated runners keep to the protocol

    def __init__(self, world: World, _folder: Path) -> None:
        self._world = world
        self._expected: dict[int, bytes] = {}
        self._phases: dict[tuple[int, m.Channel], Phase] = {}
        self._arrived: deque[tuple[int, m.Channel, bytes]] = deque()
        self._outgoing: dict[tuple[int, m.Channel], list[m.ToRunner]] = {}

    def expect(self, runner: int, secret: bytes) -> None:
        """Await a runner that is being born."""
        self._expected[runner] = secret

    def forget(self, runner: int) -> None:
        """Drop whatever a runner that is gone may still have said."""
        del self._expected[runner]
        for channel in ("data", "control"):
            self._phases.pop((runner, channel), None)
            self._outgoing.pop((runner, channel), None)

    def arrive(self, runner: int, channel: m.Channel, frame: bytes) -> None:
        """Take a parcel from the wire."""
        self._arrived.append((runner, channel, frame))
        self._world.woken = True

    def receive(self) -> Iterator[tuple[int, m.Channel, m.FromRunner]]:
        """Give every message that has arrived."""
        while self._arrived:
            number, channel, frame = self._arrived.popleft()
            for message in unpack_from_runner(frame):
                if number in self._expected:
                    self._check_legal(number, channel, message)
                    yield number, channel, message

    def _check_legal(self, number: int, channel: m.Channel, message: m.FromRunner) -> None:
        phase = next_phase(channel, self._phases.get((number, channel), "silent"), message)
        assert phase is not None, f"the simulated runner breaks the protocol: {message}"
        self._phases[number, channel] = phase

    def send(self, runner: int, channel: m.Channel, message: m.ToRunner) -> None:
        """Put a message into the parcel for a runner."""
        if isinstance(message, m.Assign):
            self._world.witness.assigned(message)
        if self._phases.get((runner, channel), "silent") != "silent":
            self._outgoing.setdefault((runner, channel), []).append(message)

    def flush(self) -> None:
        """Send every parcel."""
        for runner in self._world.runners:
            for channel in ("data", "control"):
                parcel = self._outgoing.pop((runner.number, channel), None)
                if parcel:
                    runner.wire.to_runner(channel, pack(parcel))
        self._outgoing.clear()

    def requests(self) -> Iterator[tuple[bytes, object]]:
        """Nobody sends commands."""
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


class NoPokes:
    """In place of the socket by which other processes poke the supervisor: the world wakes it."""

    def __init__(self, _folder: Path) -> None:
        pass


class SimulatedSupervisor(Supervisor):
    """The real supervisor, whose waiting lets the world go on."""

    _world: World

    def _wait(self, wake: int) -> None:
        self._world.witness.sees(self)
        self._world.sleep(min(self._next_tick, self._next_recall))

    def _read_outputs(self) -> None:
        """Nobody prints."""

    def child_died(self) -> None:
        """Hear of a death, as by SIGCHLD."""
        self._child_died = True
        self._world.woken = True

    def terminate(self) -> None:
        """Hear of a SIGTERM."""
        self._signals += 1
        self._world.woken = True

    def poked(self) -> None:
        """Hear that a client has changed the database."""
        self._intake.look()
        self._world.woken = True

    def live(self, world: World) -> None:
        """Run until told to stop and everything is settled."""
        self._world = world
        world.supervisor = self
        self._loop(wake=0)
        world.supervisor = None
        self._journal.close(0)

    def die(self) -> None:
        """End at once: nothing that is not committed will be."""
        journal = self._journal
        assert isinstance(journal, SimulatedJournal)
        journal.die()
