"""A supervisor in a world of its own: simulated time, runners, clients, deaths; everything else is real.

The loop, the dispatcher, the intake, the staff, the rules, the journal's groups and the store on an SQLite
database are the real ones. Simulated is what makes real runs slow and unrepeatable: the clocks, the thread of
the journal, the sockets with their delays, and the runners, who follow the protocol and die whenever chance
says so. All chance comes from one seed, so a seed that fails, fails again.

``World``                time, chance, and the events to come
``SimulatedJournal``     the real groups, committed after delays
``SimulatedRouter``      messages under way, in order on each channel
``SimulatedRunner``      a runner: a handler's script, flight recorder and outbox that tell the truth
``SharedRunner``         the same for many handlers at once, each a ``Strand``
``SimulatedSupervisor``  the real loop, which waits in the world's time
``Witness``              what really happened, and what must never happen
``simulate``             one seed from the first invocation to the last audit
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from simulated.clients import Clients, leap
from simulated.runners import NoLeftovers, born
from simulated.surroundings import (
    NoPokes,
    SimulatedJournal,
    SimulatedRouter,
    SimulatedSupervisor,
    lease_in,
    renew,
)
from simulated.witness import Violation
from simulated.workload import CHAOS, ME, PATIENCE, SETTINGS, SPECS, known_tasks, unfinished
from simulated.world import SupervisorDied, World, WorldTime

from conductor_protocol import uptime
from conductor_protocol.manifest import (
    Manifest,
)
from conductor_protocol.units import MICROSECONDS
from conductor_supervisor import (
    dispatcher,
    endings,
    inquest,
    intake,
    leasing,
    roster,
    staff,
    supervisor,
    watch,
    work,
    writes,
)
from conductor_supervisor.aftermath import understood
from conductor_supervisor.notify import ServiceManager
from conductor_supervisor.preparing import begin
from conductor_supervisor.store import executions, tasks
from conductor_supervisor.store.database import Database


@dataclass
class Told:
    """What a simulation tells of itself."""

    endings: Counter[str] = field(default_factory=Counter)
    """Attempts, by how they ended."""
    seconds: float = 0.0
    """In the world's time."""


def simulate(seed: int, database: Database, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Let one world run from its first invocation until all is settled, and audit it.

    :raises Violation: if something happened that must never happen.
    """
    world = World(seed, database)
    with monkeypatch.context() as patch:
        _move_into(world, patch)
        try:
            Clients(world)
            world.after(CHAOS, partial(_calm_down, world))
            while not _one_life(world):
                world.linger(world.random.uniform(0.0, 0.3))
            with database.reading() as connection:
                world.witness.audit(connection)
        except AssertionError as error:
            error.add_note("\n".join(["What happened last:", *world.history]))
            raise
    return Told(world.witness.endings, world.now)


def _move_into(world: World, patch: pytest.MonkeyPatch) -> None:
    """Put the world's things in the place of the machine's."""
    for module in (dispatcher, inquest, intake, roster, staff, supervisor, watch, work):
        patch.setattr(module, "time", WorldTime(world))
    ids = (f"{number:036d}" for number in count(1))
    patch.setattr(executions, "new_id", lambda: next(ids))
    patch.setattr(endings, "random", world.random)
    for module in (leasing, uptime, work):
        patch.setattr(module, "uptime", lambda: world.now)
    patch.setattr(supervisor, "renew_from_environment", partial(renew, world))
    patch.setattr(writes, "PAGE_BYTES", 40)  # two steps at once, so that most must be asked for
    patch.setattr(supervisor, "Router", partial(SimulatedRouter, world))
    patch.setattr(supervisor, "PokeSocket", NoPokes)
    patch.setattr(supervisor, "Journal", partial(SimulatedJournal, world))
    patch.setattr(staff, "Leftovers", NoLeftovers)
    patch.setattr(staff, "adopt_orphans", lambda: False)
    patch.setattr(staff, "Child", partial(born, world))


def _one_life(world: World) -> bool:
    """Start a supervisor and let it live; tell whether it has settled everything."""
    cron = begin(world.database, known_tasks(), "UTC", world.clock, world.left, ME, lease=1.0)
    manifest = Manifest(app="world:app", tasks=tuple(SPECS.values()))
    nowhere = Path("/nowhere")
    one = SimulatedSupervisor(
        ME,
        lease_in(world),
        SETTINGS,
        manifest,
        known_tasks(),
        cron,
        world.database,
        None,
        nowhere,
        [],
        world.clock,
        False,
        ServiceManager(),
    )
    world.note("a supervisor starts")
    try:
        one.live(world)
    except SupervisorDied:
        world.note("the supervisor dies")
        world.supervisor = None
        one.die()
        pages = [(runner.recorder.read(), runner.recorder.outbox()) for runner in world.runners]
        # Or the folder is gone with the machine.
        world.left = understood([] if world.chance(0.3) else pages, ME.id)
        while world.runners:
            world.runners.pop().vanish()
        with world.database.reading() as connection:
            world.witness.supervisor_died(connection, world.left)
        return False
    world.note("the supervisor has stopped")
    with world.database.reading() as connection:
        world.witness.stopped_cleanly(connection, one)
        return world.calm and not unfinished(connection)


def _calm_down(world: World) -> None:
    """From here on all goes well: whatever is unfinished must come to its end."""
    world.note("calm")
    world.calm = True
    with world.database.writing() as connection:
        for kind, name in tasks.paused(connection):
            tasks.resume(connection, kind, name)
    if world.supervisor is not None:
        world.supervisor.poked()
    _watch_until_settled(world)


def _watch_until_settled(world: World) -> None:
    """Stop the supervisor once everything is finished; let time pass quickly where all wait for it."""
    with world.database.reading() as connection:
        left = unfinished(connection)
    if world.now > CHAOS + PATIENCE:
        raise Violation(f"not finished {PATIENCE:g} s after all went well: {left}")
    if world.supervisor is not None and not left:
        world.witness.rests(world.supervisor)
        world.supervisor.terminate()
    elif left and (moments := [world.witness.may_begin(row) for row in left]):
        soonest = (min(moments) - world.clock.now()) / MICROSECONDS
        if soonest > 1:
            leap(world, soonest - 0.5)
    world.after(0.25, partial(_watch_until_settled, world))
