"""What one execution costs PostgreSQL: commits, bytes of its log, and rows that it must clear away."""

from __future__ import annotations

from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings
from benchmarks.site import PROCESSORS, Site, site

COUNTERS = {
    "commits": "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
    "wal": "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8",
    "dead": "SELECT sum(n_tup_upd + n_tup_del) FROM pg_stat_user_tables WHERE schemaname = 'conductor'",
    "not beside": (
        "SELECT sum(n_tup_upd - n_tup_hot_upd) FROM pg_stat_user_tables WHERE schemaname = 'conductor'"
    ),
}


def run(kind: Kind, quick: bool) -> Readings:
    """Count over a drain, from the supervisor's start to its end; the invocations are made before."""
    count = 500 if quick else 10_000
    with site(kind) as here:
        here.client.invoke_many("empty", [None] * count)
        before = _counters(here)
        here.drain(PROCESSORS)
        after = _counters(here)
    return {name: (after[name] - before[name]) / count for name in COUNTERS}


def _counters(here: Site) -> Readings:
    return {name: float(here.row(query)[0]) for name, query in COUNTERS.items()}


FIGURE = Figure(
    name="cost",
    about="what an empty execution costs the server, invocation not counted",
    lines=[
        Line("commits", "commits for an execution", ""),
        Line("wal", "bytes of write-ahead log for an execution", "B"),
        Line("dead", "dead rows for an execution", ""),
        Line("not beside", "  of which are in indexes too", ""),
    ],
    run=run,
    kinds=["PostgreSQL"],
)
