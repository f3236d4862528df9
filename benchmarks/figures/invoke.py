"""What a client can ask for in a second: one by one, and in bulk. No supervisor runs."""

from __future__ import annotations

import time

from benchmarks import sql_floors
from benchmarks.databases import Kind
from benchmarks.measure import Figure, Line, Readings, Target
from benchmarks.site import Site, site

AT_ONCE = 1_000
"""Executions in one call of ``invoke_many``."""


def run(kind: Kind, quick: bool) -> Readings:
    """Measure from the first call to the return of the last, when all are committed."""
    single, bulk = (100, 2 * AT_ONCE) if quick else (2_000, 50 * AT_ONCE)
    with site(kind) as here:
        return {
            "single": single / _seconds_for_single(here, single),
            "bulk": bulk / _seconds_for_bulk(here, bulk),
            "commits": sql_floors.commits_per_second(kind, single),
            "rows": sql_floors.rows_per_second(kind, bulk, AT_ONCE),
        }


def _seconds_for_single(here: Site, count: int) -> float:
    here.client.invoke("empty")  # opens the client's database
    began = time.perf_counter()
    for _ in range(count):
        here.client.invoke("empty")
    return time.perf_counter() - began


def _seconds_for_bulk(here: Site, count: int) -> float:
    payloads = [None] * AT_ONCE
    began = time.perf_counter()
    for _ in range(0, count, AT_ONCE):
        here.client.invoke_many("empty", payloads)
    return time.perf_counter() - began


FIGURE = Figure(
    name="invoke",
    about="invocations a second, by one client",
    lines=[
        Line("single", "invoke", "/s", Target(of_floor_at_least=0.6), "commits", "INSERT and COMMIT"),
        Line(
            key="bulk",
            label="invoke_many, 1,000 at once",
            unit="/s",
            target=Target(at_least=45_000, of_floor_at_least=0.6),
            floor="rows",
            floor_label="the same rows, by COPY or many INSERTs",
        ),
    ],
    run=run,
)
