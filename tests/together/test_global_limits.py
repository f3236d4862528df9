"""Limits over three supervisors on one database, measured by the tasks, while processes are killed."""

from __future__ import annotations

from collections import Counter

import psutil
import pytest

from harness import Project, Supervisor

pytestmark = pytest.mark.together

LIMITED = """
    @app.task(concurrency=[5, Limit(2, key="order.tenant")], retry=Retry([0]), max_attempts=100)
    def limited(event, ctx):
        tenant = event.payload["order"]["tenant"]
        note(f"+ {tenant} {os.getpid()}")
        time.sleep(0.03)
        note(f"- {tenant} {os.getpid()}")
"""

RATED = """
    def started():
        note(f"{time.monotonic()} {os.getpid()}")

    @app.task(rate="6/second", retry=Retry([0]), max_attempts=100)
    def alone(event, ctx):
        started()
        time.sleep(0.05)

    @app.task(rate="6/second", retry=Retry([0]), max_attempts=100, isolation="shared")
    async def beside(event, ctx):
        started()
        await asyncio.sleep(0.05)

    @app.task
    def free(event, ctx):
        time.sleep(0.01)
"""


def start(site: Project, name: str) -> Supervisor:
    """Start the supervisor of this name, or start it again."""
    return site.start("--runtime", str(site.folder / name), runners=3)


def kill_a_runner(site: Project, supervisor: Supervisor) -> None:
    """Kill a runner that has written to the diary; note there that it is gone, before anybody sees that."""
    written = {int(line.split()[-1]) for line in site.diary()}
    runner = next((one for one in supervisor.runners() if one.pid in written), None)
    if runner is None:  # it is just being replaced
        return
    runner.suspend()
    site.until(lambda: runner.status() == psutil.STATUS_STOPPED, "the runner stands still")
    note_gone(site, runner.pid)
    runner.kill()


def kill_supervisor(site: Project, supervisor: Supervisor) -> None:
    """Kill a supervisor; once its runners are dead, write to the diary that they are gone."""
    runners = supervisor.runners()
    supervisor.kill()
    psutil.wait_procs(runners, timeout=30)
    for runner in runners:
        assert not runner.is_running()
        note_gone(site, runner.pid)


def note_gone(site: Project, pid: int) -> None:
    with (site.folder / "diary").open("a") as diary:
        diary.write(f"gone {pid}\n")


def most_at_once(diary: list[str]) -> tuple[int, dict[str, int]]:
    """Return how many ran at once at most, in all and by key."""
    running: dict[int, str] = {}
    most, most_of = 0, Counter[str]()
    for line in diary:
        what, *tenant, pid = line.split()
        if what == "+":
            running[int(pid)] = tenant[0]
        else:
            running.pop(int(pid), None)
        most = max(most, len(running))
        for key, number in Counter(running.values()).items():
            most_of[key] = max(most_of[key], number)
    return most, most_of


def busiest_second(diary: list[str]) -> int:
    """Return how many starts lie within one second at most, wherever it begins."""
    starts = sorted(float(line.split()[0]) for line in diary if not line.startswith("gone"))
    return max(sum(first <= at < first + 1 for at in starts) for first in starts)


def completed(site: Project, ids: list[str]) -> bool:
    done = {view.id for view in site.views(state="completed")}
    return done.issuperset(ids)


def test_limits_by_key_hold_over_three_supervisors_under_kills(shared_project: Project) -> None:
    """And the limit on all, with one tenant's many executions in front of the others'."""
    site = shared_project
    site.tasks(LIMITED)
    tenants = ["many"] * 60 + ["b", "c", "d"] * 20
    supervisors = [start(site, name) for name in "abc"]
    ids = site.invoke_many(
        "limited", [{"order": {"tenant": tenant}} for tenant in tenants], key_path="order.tenant"
    )
    for supervisor in supervisors:
        seen = len(site.diary())
        site.until(lambda seen=seen: len(site.diary()) > seen + 30, "more has run")
        kill_a_runner(site, supervisor)
    kill_supervisor(site, supervisors[0])
    start(site, "a")
    site.until(lambda: completed(site, ids), "all have completed")
    most, most_of = most_at_once(site.diary())
    assert most <= 5
    assert max(most_of.values()) <= 2
    assert set(most_of) == {"many", "b", "c", "d"}


@pytest.mark.parametrize("task", ["alone", "beside"])
def test_no_second_has_more_starts_than_the_rate_allows(shared_project: Project, task: str) -> None:
    """Wherever it begins, by the tasks' own clocks, while others keep the runners busy."""
    site = shared_project
    site.tasks(RATED)
    supervisors = [start(site, name) for name in "abc"]
    site.invoke_many("free", [None] * 500)
    ids = site.invoke_many(task, [None] * 30)
    site.until(lambda: len(site.diary()) > 6, "some have started")
    kill_a_runner(site, supervisors[1])
    site.until(lambda: len(site.diary()) > 14, "more have started")
    kill_supervisor(site, supervisors[0])
    start(site, "a")
    site.until(lambda: completed(site, ids), "all have completed")
    assert busiest_second(site.diary()) <= 6
