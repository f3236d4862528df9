"""One story: supervisors at work, what befalls them at the boundaries that the seed has chosen, and an end at
which everything must be as it should.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TypeVar

import diary
from boundaries import DECKS, OF_CONNECTIONS, Cell, Deck
from invariants import leftovers, violations
from orders import Order, Orders, Taken, boundary

from conductor_protocol.operations import FINISHED, ExecutionView, Listed, ListExecutions
from conductor_protocol.units import MICROSECONDS
from conductor_supervisor.clock import FileClock
from conductor_supervisor.errors import StoreError
from harness import Project, Supervisor, gone
from proxy import Proxy
from testbed.postgresql import PostgresServer

CELLS = 5
"""In one story."""

LEASE = 5.0
LONG = LEASE * 1.4
"""Seconds that are longer than the lease."""

RATE = 30
"""How much faster the supervisors' clock goes than ours."""

BEGIN = int(datetime(2040, 1, 1, tzinfo=UTC).timestamp()) * MICROSECONDS

CONFIG = """
    cancel_grace = "500ms"
    stop_grace = "500ms"
    import_timeout = "20s"
    recycle_executions = 60
    """

PATIENCE = 120.0
"""Seconds to wait for a fact: what has happened takes its time to be mended, on a busy machine."""

PROVOCATION_AFTER = 3.0
"""Seconds after which what should lead to a boundary is done once more."""

CANCEL_EVERY = 0.2
"""Seconds between looks for what is to be cancelled."""

T = TypeVar("T")


class Plan:
    """What a seed means."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        deck = DECKS[seed % len(DECKS)]
        chapter = seed // len(DECKS)
        cells = deck.cells()
        chapters = -(-len(cells) // CELLS)
        lap, number = divmod(chapter, chapters)
        self.place = deck.place
        self.cells: Sequence[Cell] = cells[number * CELLS : (number + 1) * CELLS]
        self.isolation = _isolation(deck, chapter)
        self.supervisors = 1 if self.place == "sqlite" else (3, 1)[(chapter + lap) % 2]

    @property
    def is_for_runners(self) -> bool:
        """Whether nothing happens but to runners."""
        return all(cell.room == "runner" for cell in self.cells)

    @property
    def needs_proxies(self) -> bool:
        """Whether anything happens to connections."""
        return any(cell.deed in OF_CONNECTIONS for cell in self.cells)

    def __str__(self) -> str:
        return f"{self.supervisors} on {self.place}, isolation {self.isolation}:\n  " + "\n  ".join(
            map(str, self.cells)
        )


def _isolation(deck: Deck, chapter: int) -> str:
    return deck.isolation if deck.room == "runner" else ("runner", "shared", "fresh")[chapter % 3]


def seeds_of_one_pass() -> int:
    """Return how many seeds have every cell of the matrix once."""
    return len(DECKS) * max(-(-len(deck.cells()) // CELLS) for deck in DECKS)


class Post:
    """A place for a supervisor: whoever is there has this runtime folder and this way to the database."""

    def __init__(self, name: str, proxy: Proxy | None) -> None:
        self.name = name
        self.proxy = proxy
        self.supervisor: Supervisor | None = None
        self.told_to_stop = False
        self.may_fail = False
        """The database was in trouble while whoever is there was beginning or ending."""
        self.moves = 0

    @property
    def pid(self) -> int:
        """The process that is there."""
        assert self.supervisor is not None
        return self.supervisor.process.pid

    @property
    def heeds_signals(self) -> bool:
        """Whether whoever is there has begun its work and not been told to stop."""
        assert self.supervisor is not None
        return not self.told_to_stop and "started:" in self.supervisor.output()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to whoever is there."""
        assert self.supervisor is not None
        self.supervisor.signal(number)

    @property
    def folder(self) -> str:
        """The name of the runtime folder."""
        return f"run-{self.name}{self.moves or ''}"


class Story:
    """Tells one."""

    def __init__(self, plan: Plan, project: Project, server: PostgresServer | None) -> None:
        self._plan = plan
        self._random = plan.random
        self._project = project
        self._server = server
        self._orders = Orders(project.folder)
        self._posts: list[Post] = []
        self._invoked: list[str] = []
        self._uncancelled: set[str] = set()
        self._cancel_at = 0.0
        self._begun = time.monotonic()
        self._struck: set[int] = set()

    def tell(self) -> None:
        """Let everything happen, and look at the end whether it is as it should be."""
        project = self._project
        project.tasks("from workload import app")
        project.config(CONFIG)
        project.module = "chaos_supervisor"
        project.environment |= {
            "PYTHONPATH": str(Path(__file__).parent),
            "CONDUCTOR_LEASE": f"{LEASE:g}s",
            "CHAOS_ISOLATION": self._plan.isolation,
        }
        with _ticking(project.clock()), self._proxies() as proxies:
            for name, proxy in zip("abc", proxies, strict=False):
                self._posts.append(Post(name, proxy))
            for post in self._posts:
                self._start(post)
            for number, cell in enumerate(self._plan.cells):
                self._happen(number, cell)
            self._say("all has happened")
            self._settle()
            self._say("everything has ended")
            self._stop()
            self._say("all have stopped")
        self._check()

    def _say(self, what: str) -> None:
        """Print what a reader of a failure wants to know: it is seen then."""
        print(f"{time.monotonic() - self._begun:6.2f} s  {what}")

    @contextmanager
    def _proxies(self) -> Iterator[list[Proxy | None]]:
        if self._server is None or not self._plan.needs_proxies:
            yield [None] * self._plan.supervisors
            return
        proxies = [Proxy(self._server.port) for _ in range(self._plan.supervisors)]
        try:
            yield [*proxies]
        finally:
            for proxy in proxies:
                proxy.close()

    # Supervisors

    def _start(self, post: Post) -> None:
        url = self._project.url
        if post.proxy is not None and self._server is not None:
            url = url.replace(f":{self._server.port}/", f":{post.proxy.port}/")
        self._project.environment["CONDUCTOR_DATABASE_URL"] = url
        post.told_to_stop = post.may_fail = False
        post.supervisor = self._project.start(
            "--runtime", str(self._project.folder / post.folder), runners=1 if len(self._posts) > 1 else 2
        )

    def _tend(self) -> None:
        """Put somebody in the place of each supervisor that has ended as it should."""
        for post in self._posts:
            assert post.supervisor is not None
            status = post.supervisor.process.poll()
            if status is None:
                continue
            excused = (post.told_to_stop and status == 0) or (post.may_fail and status == 1)
            assert excused, f"a supervisor ended with status {status}:\n{post.supervisor.output()}"
            self._start(post)

    def _renew(self) -> None:
        """Stop a supervisor that has runners at work; :meth:`_tend` puts another into its place."""
        at_work = {line.parent for line in diary.read(self._project.folder)}
        posts = [post for post in self._posts if post.heeds_signals and post.pid in at_work]
        if posts:
            post = self._random.choice(posts)
            post.told_to_stop = True
            post.signal(signal.SIGTERM)
        self._invoke("instant", {}, 10)

    def _reload(self) -> None:
        post = self._random.choice(self._posts)
        if post.heeds_signals:
            post.signal(signal.SIGHUP)

    # Work

    def _invoke(self, task: str, payload: object = None, times: int = 1) -> list[str]:
        ids = self._patiently(lambda: self._project.invoke_many(task, [payload] * times))
        self._invoked += ids
        return ids

    def _invoke_batch(self) -> None:
        chance = self._random
        self._invoke("steps", {"steps": chance.randint(2, 6)}, chance.randint(1, 3))
        self._invoke("steps", {"steps": 2, "raise": 1})
        self._invoke("quick", None, 3)
        self._invoke("instant", {}, 20)
        self._invoke("limited", None, 4)
        self._invoke("invokes")
        self._invoke("progressing")
        self._invoke("windowed")
        for task in chance.sample(("crashes", "fails", "gives-up", "large"), 2):
            self._invoke(task)
        self._uncancelled.update(self._invoke("lingering"))

    def _cancel_those_that_linger(self) -> None:
        """Looked after now and then: who looks all the time has no time for the proxies."""
        if not self._uncancelled or time.monotonic() < self._cancel_at:
            return
        self._cancel_at = time.monotonic() + CANCEL_EVERY
        lingering = {line.execution for line in diary.read(self._project.folder) if line.what == "lingers"}
        for execution in lingering & self._uncancelled:
            self._patiently(lambda: self._project.cancel(execution))  # noqa: B023
            self._uncancelled.discard(execution)

    def _go_on(self) -> None:
        """Do what must go on while we wait for something. Not all the time: the proxies need some of it."""
        self._tend()
        self._cancel_those_that_linger()
        time.sleep(0.03)

    def _patiently(self, work: Callable[[], T]) -> T:
        """Do a client's work, again and again while the database is away."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return work()
            except StoreError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    # What happens

    def _happen(self, number: int, cell: Cell) -> None:
        order = Order(
            number=number,
            room=cell.room,
            boundary=boundary(cell.kind, cell.moment),
            time=self._random.randint(1, 3) if cell.kind in OFTEN else 1,
            deed=cell.deed.split()[0] if cell.deed.startswith("SIG") else "wait",  # type: ignore[arg-type]
        )
        self._invoke_batch()
        self._orders.give(order)
        taken = self._wait_until_taken(order, cell)
        self._say(f"{cell}, by process {taken.pid}")
        if cell.room == "runner":
            self._befall_runner(cell, taken)
        else:
            self._befall_supervisor(cell, order, taken)

    def _wait_until_taken(self, order: Order, cell: Cell) -> Taken:
        provoke_at = time.monotonic()

        def taken() -> Taken | None:
            nonlocal provoke_at
            if (found := self._orders.taken(order)) is not None:
                return found
            self._go_on()
            if time.monotonic() >= provoke_at:
                provoke_at = time.monotonic() + PROVOCATION_AFTER
                self._provoke(cell.kind)
            return None

        return self._until(taken, lambda: f"somebody comes to the boundary {order.boundary!r}")

    def _provoke(self, kind: str) -> None:
        """Do what leads to a boundary, where the work itself does not."""
        match kind:
            case "Declare":
                self._reload()
            case "Prepare" | "Sweep" | "GiveUpLease" | "Hello" | "Welcome" | "ShutdownIntent" | "Goodbye":
                self._renew()
            case "Recall" | "Returned":
                for _ in range(4):
                    self._invoke("instant", {}, 40)
                    self._invoke("instant", {"pause": 0.1})
            case "Stop" | "Released":
                self._uncancelled.update(self._invoke("lingering"))
                self._renew()
            case "Worn":
                self._invoke("instant", {}, 200)
            case "LoadPage" | "LoadSteps" | "StepPage" | "Flush" | "Flushed":
                self._invoke("large")
            case "Cancel":
                self._uncancelled.update(self._invoke("lingering"))
            case "Interrupt" | "Interrupted":
                self._uncancelled.update(self._invoke("stubborn"))
            case "WindowClosed" | "WindowOpened":
                self._invoke("deaf")
            case "Perform" | "Operate" | "Answered":
                self._invoke("invokes")
            case "NoteStart" | "Began":
                self._invoke("rated")
            case "KeepProgress" | "Progress" | "KeepOutput":
                self._invoke("progressing")
            case _:
                self._invoke("steps", {"steps": 2, "raise": 1})

    def _befall_runner(self, cell: Cell, taken: Taken) -> None:
        self._struck.add(taken.pid)
        if cell.deed == "SIGSTOP for a moment":
            self._pause()
        elif cell.deed.startswith("SIGSTOP"):
            self._wait_seconds(LONG, unless=lambda: gone(taken.pid))
        if cell.deed.startswith("SIGSTOP"):
            with suppress(ProcessLookupError):
                os.kill(taken.pid, signal.SIGCONT)

    def _befall_supervisor(self, cell: Cell, order: Order, taken: Taken) -> None:
        post = next(p for p in self._posts if p.pid == taken.pid)
        for one in self._posts:
            one.may_fail = not one.heeds_signals
        match cell.deed:
            case "SIGKILL":
                self._bury(post)
            case "SIGSTOP for a moment":
                self._pause()
                os.kill(taken.pid, signal.SIGCONT)
            case "SIGSTOP for longer than the lease":
                self._outlast(post)
                os.kill(taken.pid, signal.SIGCONT)
            case _:
                with self._database_in_trouble(cell, post):
                    self._orders.go_on(order)

    def _bury(self, post: Post) -> None:
        assert post.supervisor is not None
        assert post.supervisor.wait() == -signal.SIGKILL
        if self._random.random() < 0.3:
            post.moves += 1  # as if the machine was lost with it
        self._start(post)

    def _outlast(self, post: Post) -> None:
        """Wait for longer than the lease; where there are others, they go on without the one that stands."""
        if len(self._posts) > 1:
            (execution,) = self._invoke("quick")
            self._until(
                lambda: self._go_on() or self._project.view(execution).state == "completed",
                lambda: "others go on",
            )
        self._wait_seconds(LONG)

    @contextmanager
    def _database_in_trouble(self, cell: Cell, post: Post) -> Iterator[None]:
        if cell.deed in OF_CONNECTIONS:
            assert post.proxy is not None
            yield from self._connection_in_trouble(cell, post.proxy)
        else:
            assert self._server is not None
            yield from self._server_in_trouble(cell, self._server)

    def _server_in_trouble(self, cell: Cell, server: PostgresServer) -> Iterator[None]:
        if cell.deed == "the server is killed":
            server.kill()
            yield
            self._pause()
            server.start()
        else:
            server.send(signal.SIGSTOP)
            yield
            self._pause()
            server.send(signal.SIGCONT)

    def _connection_in_trouble(self, cell: Cell, proxy: Proxy) -> Iterator[None]:
        match cell.deed:
            case "the connection is cut":
                proxy.cut()
                yield
                self._pause()
                proxy.mend()
            case "the answer to a commit is lost":
                proxy.lose_answers_of_commits = 1
                yield
                self._until(lambda: not proxy.lose_answers_of_commits, lambda: "a commit's answer is lost")
            case _:
                proxy.frozen = True
                yield
                if cell.deed == "the connection is frozen for a moment":
                    self._pause()
                else:
                    self._wait_seconds(LONG)
                proxy.mend()

    def _until(self, fact: Callable[[], T | None], what: Callable[[], str]) -> T:
        """Wait until there is something true; return it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := fact()):
            assert time.monotonic() < deadline, f"never came true: {what()}"
            time.sleep(0.01)
        return found

    def _pause(self) -> None:
        self._wait_seconds(self._random.uniform(0.05, 0.8))

    def _wait_seconds(self, seconds: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Let something last for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not unless():
            time.sleep(0.02)

    # The end

    def _settle(self) -> None:
        """Wait until everything that clients have invoked has ended."""

        def settled() -> bool:
            self._go_on()
            return not self._unfinished()

        self._until(settled, lambda: f"everything has ended, but for {self._unfinished()}")

    def _unfinished(self) -> list[ExecutionView]:
        """Each is looked at once: who asks for one state after the other misses what moves in between."""
        views = self._patiently(self._all_views)
        return [view for view in views if view.state not in FINISHED and view.task != "ticks"]

    def _stop(self) -> None:
        for post in self._posts:
            self._until(lambda: self._tend() or post.heeds_signals, lambda: f"{post.name} works")  # noqa: B023
        for post in self._posts:
            post.signal(signal.SIGTERM)
        statuses = [post.supervisor.wait() for post in self._posts if post.supervisor is not None]
        assert statuses == [0] * len(self._posts), statuses

    def _check(self) -> None:
        views = [self._project.view(view.id) for view in self._all_views()]
        lines = diary.read(self._project.folder)
        found = [
            *violations(lines, views, self._invoked, frozenset(self._struck), self._plan.is_for_runners),
            *leftovers(self._project.folder, {post.folder for post in self._posts}),
        ]
        assert not found, "\n".join(found)

    def _all_views(self) -> list[ExecutionView]:
        found: list[ExecutionView] = []
        while True:
            answer = self._project.perform(ListExecutions(limit=1000, before=found[-1].id if found else None))
            assert isinstance(answer, Listed)
            if not answer.executions:
                return found
            found += answer.executions


OFTEN = frozenset(
    {"EndAttempt", "RecordStep", "Look", "Claim", "RenewLease", "TakeOver", "Ask", "Verdict", "StepDone",
     "StepAck", "Finished", "Assign", "Heartbeat", "LiveOn"}
)  # fmt: skip
"""What a process passes again and again: it need not strike at the first time."""


@contextmanager
def _ticking(clock: FileClock) -> Iterator[None]:
    """Let the supervisors' clock go."""
    begun = time.monotonic()
    ended = threading.Event()
    clock.set(BEGIN)

    def tick() -> None:
        while not ended.wait(0.05):
            clock.set(BEGIN + int((time.monotonic() - begun) * RATE * MICROSECONDS))

    thread = threading.Thread(target=tick, name="clock")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
