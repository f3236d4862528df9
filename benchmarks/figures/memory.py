"""What the processes cost that are there all the time: their memory, and the processor's time while idle."""

from __future__ import annotations

import time

import psutil

from benchmarks import floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import PROCESSORS, WORKLOAD, Site, site

AT_ONCE = 2_000
"""Executions invoked together, so that the client stays small too."""

MEBIBYTE = 2**20

IMPORTS_OF_A_RUNNER = f"import runpy, zmq, conductor.child.session; runpy.run_path({str(WORKLOAD)!r})"

IMPORTS_OF_A_SUPERVISOR = {
    "SQLite": "import conductor_supervisor.supervisor",
    "PostgreSQL": "import conductor_supervisor.supervisor, psycopg",
}


def run(kind: Kind, quick: bool) -> Readings:
    """Look while idle, then run many executions through the same supervisor, and look again."""
    count = AT_ONCE if quick else 50_000
    with site(kind) as here, here.supervisor(PROCESSORS):
        first = here.status()
        idle = _processors_used(here, 1.0 if quick else 10.0)
        for _ in range(0, count, AT_ONCE):
            here.client.invoke_many("empty", [None] * AT_ONCE)
        here.wait_until_ended(count)
        after = here.status().memory
    runner = max(runner.memory or 0 for runner in first.runners)
    imports = floors.memory_of_imports(IMPORTS_OF_A_RUNNER)
    return {
        "supervisor": first.memory,
        "supervisor after": after,
        "supervisor's imports": floors.memory_of_imports(IMPORTS_OF_A_SUPERVISOR[kind]),
        "runner": runner,
        "runner's imports": imports,
        "above": runner - imports,
        "idle": idle,
    }


def _processors_used(here: Site, seconds: float) -> float:
    """Return what supervisor and runners use together in this time, in parts of one processor."""
    status = here.status()
    pids = [status.pid, *(runner.pid for runner in status.runners if runner.pid is not None)]
    before, began = sum(map(_processor_seconds, pids)), time.monotonic()
    time.sleep(seconds)
    return (sum(map(_processor_seconds, pids)) - before) / (time.monotonic() - began)


def _processor_seconds(pid: int) -> float:
    if psutil.LINUX:  # as clock_getcpuclockid(3): to the microsecond, where psutil has hundredths
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


_FLOOR = "bare interpreter with the same imports"

FIGURE = Figure(
    name="memory",
    about="resident memory of supervisor and runners, and what they use while idle",
    lines=[
        Line("supervisor", "supervisor's memory at start", "MiB", None, "supervisor's imports", _FLOOR),
        Line(
            key="supervisor after",
            label="the same after 50,000 executions",
            unit="MiB",
            floor="supervisor's imports",
            floor_label=_FLOOR,
        ),
        Line("runner", "memory of an idle runner", "MiB", None, "runner's imports", _FLOOR),
        Line("above", "  which is so much above its floor", "MiB", Target(at_most=12 * MEBIBYTE)),
        Line("idle", "processor used while idle, all processes", "%", Target(at_most=0.005)),
    ],
    run=run,
)
