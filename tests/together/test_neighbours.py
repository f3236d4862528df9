"""Several supervisors on one PostgreSQL: they share the work, and take over from those that are gone."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from harness import Project, Supervisor

pytestmark = pytest.mark.together

COUNTING = """
    @app.task(max_attempts=1, concurrency=3)
    def limited(event, ctx):
        note(f"begin {event.payload}")
        time.sleep(0.05)
        note(f"end {event.payload}")

    @app.task(max_attempts=1)
    def once(event, ctx):
        note(f"ran {event.payload}")

    @app.task(max_attempts=1)
    def quick(event, ctx):
        if event.payload == "stay":
            note("stays")
            wait_for("go on")

    @app.task(max_attempts=1)
    def steps(event, ctx):
        ctx.step("first", note, "first")
        note(f"runner {os.getpid()}")
        if not Path("go on").exists():
            wait_for("never")
        ctx.step("second", note, "second")
        return "done"
    """


@pytest.fixture
def several(shared_project: Project) -> Project:
    """A project with the tasks above, on PostgreSQL."""
    shared_project.tasks(COUNTING)
    shared_project.environment["CONDUCTOR_LEASE"] = "3s"
    return shared_project


def start(project: Project, name: str, *arguments: str, runners: int = 1) -> Supervisor:
    """Start one of several supervisors."""
    folder = project.folder / f"run-{name}"
    return project.start("--runtime", str(folder), *arguments, runners=runners)


def test_three_supervisors_share_the_work(several: Project) -> None:
    """Each execution runs once, and none of them is left over."""
    ids = several.invoke_many("once", list(range(300)))
    supervisors = [start(several, name, "--drain") for name in "abc"]
    assert [one.wait() for one in supervisors] == [0, 0, 0]
    assert Counter(several.diary()) == Counter(f"ran {number}" for number in range(300))
    assert {several.view(one).state for one in ids} == {"completed"}


def test_what_was_claimed_behind_a_long_one_is_for_an_idle_neighbour(several: Project) -> None:
    """It was known to be short, so all of it was claimed ahead. It is shown as what it is: not started."""
    first = start(several, "a")
    for known in several.invoke_many("quick", [None] * 100):
        several.until_state(known, "completed")
    long, *others = several.invoke_many("quick", ["stay", *[None] * 10])
    several.until_noted("stays")
    several.until(
        lambda: [(view.state, view.started) for view in map(several.view, others)] == [("ready", None)] * 10,
        "what cannot run has been given back",
    )
    second = start(several, "b")
    for one in others:
        assert [attempt.number for attempt in several.until_state(one, "completed").attempts] == [1]
    assert several.view(long).state == "running"
    several.let_go("go on")
    several.until_state(long, "completed")
    assert (first.stop(), second.stop()) == (0, 0)


def most_at_once(diary: list[str]) -> int:
    """Return how many were between their begin and their end at one moment."""
    running = most = 0
    for line in diary:
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    return most


def test_a_limit_holds_over_all_supervisors(several: Project) -> None:
    """As the tasks see it themselves; and it is used."""
    several.invoke_many("limited", list(range(60)))
    supervisors = [start(several, name, "--drain", runners=2) for name in "abc"]
    assert [one.wait() for one in supervisors] == [0, 0, 0]
    diary = [line for line in several.diary() if line.startswith(("begin", "end"))]
    assert len(diary) == 120
    assert most_at_once(diary) == 3


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_another_takes_over_from_one_that_is_gone(several: Project, how: signal.Signals) -> None:
    """What it ran goes on after the lease, uncharged, with its steps; its runner is dead by then."""
    execution = several.invoke("steps")
    first = start(several, "a")
    several.until(lambda: any(line.startswith("runner") for line in several.diary()), "it runs")
    pid = int(next(line for line in several.diary() if line.startswith("runner")).split()[1])
    several.let_go("go on")
    first.process.send_signal(how)
    second = start(several, "b")
    found = several.until_state(execution, "completed")
    assert not is_alive(pid)
    assert several.diary().count("first") == 1
    assert several.diary().count("second") == 1
    assert [attempt.outcome for attempt in found.attempts] == ["lost", "completed"]
    assert found.attempt == 0
    if how == signal.SIGSTOP:
        first.signal(signal.SIGCONT)
        several.until(lambda: "work goes on" in first.output(), "the first has found itself again")
        again = several.invoke("once", 1)
        several.until_state(again, "completed")
        assert first.stop() == 0
        assert several.view(execution) == found
    assert second.stop() == 0


def is_alive(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_supervisor_that_died_is_followed_at_once_in_its_own_folder(several: Project) -> None:
    """Nobody waits for a lease there: the lock and the recorders tell that it is dead, and what it ran."""
    several.environment["CONDUCTOR_LEASE"] = "1h"
    execution = several.invoke("steps")
    first = start(several, "a")
    several.until(lambda: any(line.startswith("runner") for line in several.diary()), "it runs")
    first.kill()
    several.let_go("go on")
    second = start(several, "a", "--drain")
    assert second.wait() == 0
    assert several.view(execution).state == "completed"
    assert several.diary().count("first") == 1


def test_a_clean_stop_leaves_no_lease(several: Project) -> None:
    """Others need not wait for it to run out."""
    several.invoke("once", 1)
    supervisor = start(several, "a")
    several.until_noted("ran 1")
    assert supervisor.stop() == 0
    from conductor_supervisor.store import leases
    from conductor_supervisor.store.database import Database

    database = Database.open(several.url)
    with database.reading() as connection:
        assert leases.members(connection) == []
    database.close()


def test_one_supervisor_hears_at_once_of_what_another_gives_back(several: Project) -> None:
    """A shutdown here is work there."""
    several.config("[queues.default]\nrunners = 1")
    several.tasks(
        """
        @app.task
        def until_released(event, ctx):
            note(f"begun {os.getppid()}")
            while not Path("finish").exists():
                ctx.checkpoint()
                time.sleep(0.01)
        """
    )
    execution = several.invoke("until-released")
    first = start(several, "a")
    several.until(lambda: len(several.diary()) == 1, "it runs")
    second = start(several, "b")
    several.until(lambda: "started" in second.output(), "the second runs")
    assert first.stop() == 0
    several.until(lambda: len(several.diary()) == 2, "it runs again")
    several.let_go("finish")
    several.until_state(execution, "completed")
    assert second.stop() == 0


def test_a_queue_without_runners_is_left_to_another_machine(several: Project) -> None:
    """Each supervisor takes only what its own runners serve; whoever serves nothing of it can be drained."""
    several.tasks(
        """
        @app.task(queue="media")
        def transcode(event, ctx):
            note(f"transcoded under {os.getppid()}")

        @app.task
        def usual(event, ctx):
            note(f"usual under {os.getppid()}")
        """
    )
    (several.folder / "small.toml").write_text("[queues.media]\nrunners = 0\n")
    (several.folder / "large.toml").write_text("[queues.default]\nrunners = 0\n[queues.media]\nrunners = 1\n")
    several.invoke_many("transcode", [None] * 3)
    several.invoke_many("usual", [None] * 3)
    small = start(several, "a", "--config", "small.toml", "--drain")
    assert small.wait() == 0
    assert [line.split()[0] for line in several.diary()] == ["usual"] * 3
    large = start(several, "b", "--config", "large.toml", "--drain")
    assert large.wait() == 0
    assert [line.split()[0] for line in several.diary()] == ["usual"] * 3 + ["transcoded"] * 3


def test_status_tells_who_shares_the_database(several: Project) -> None:
    """With whoever does not renew its lease any more."""
    first, second = start(several, "a"), start(several, "b")
    several.until(lambda: "started" in first.output() and "started" in second.output(), "both have started")
    assert sharing_of(several) == {(first.process.pid, "held"), (second.process.pid, "held")}
    second.signal(signal.SIGSTOP)
    first.signal(signal.SIGSTOP)
    several.until(lambda: (second.process.pid, "over") in sharing_of(several), "the lease is over")
    assert "its lease is over" in several.command("status").stdout
    first.signal(signal.SIGCONT)
    second.signal(signal.SIGCONT)
    assert [first.stop(), second.stop()] == [0, 0]


def sharing_of(project: Project) -> set[tuple[int, str]]:
    """Return who shares the database, asked where no supervisor is."""
    found = project.json("status")["sharing"]
    assert isinstance(found, list)
    return {(one["pid"], one["lease"]) for one in found}
