"""A report for each day, also for the days on which the machine was off.

``catch_up="all"`` makes one execution for each firing that was missed. ``event.scheduled_for`` tells which
day an execution is for (in UTC); the clock on the wall would not, after a weekend.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from conductor import Conductor, Context, Cron, Event, Retry

app = Conductor(timezone="Europe/Berlin")


@app.task(
    cron=Cron("30 5 * * *", catch_up="all"),
    invocable=True,
    retry=Retry(initial="1m", factor=2, maximum="1h"),
)
def daily_report(event: Event, ctx: Context) -> str:
    moment = event.scheduled_for or datetime.now(UTC)  # invoked by hand, it is for today
    day = moment.astimezone(ZoneInfo(app.timezone)).date().isoformat()
    visits = ctx.step("collect", collect, day)
    return ctx.step("write", write, day, visits)


def collect(day: str) -> int:
    return sum(map(ord, day))  # stands for a slow query


def write(day: str, visits: int) -> str:
    folder = Path("reports")
    folder.mkdir(exist_ok=True)
    report = folder / f"{day}.json"
    report.write_text(json.dumps({"day": day, "visits": visits}), encoding="utf-8")
    return str(report)
