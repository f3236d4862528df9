"""An export that may run only at night, and takes more than one.

The window closes at six in the morning. The export is then released at its next step, keeps what it has
exported, and goes on by itself at eight in the evening. Nobody has to start it again.
"""

import csv
from pathlib import Path

from conductor import Conductor, Context, Event, Window

app = Conductor()
night = Window("20:00", "06:00", tz="Europe/Berlin", grace="5m")


@app.task(window=night)
def bulk_export(event: Event[int], ctx: Context) -> dict[str, int]:
    """Export this many records, a thousand to a file."""
    exported = 0
    for start in range(0, event.payload, 1000):
        ctx.progress(start, event.payload, "records")
        exported += ctx.step(f"export-{start}", export, start, min(start + 1000, event.payload))
    return {"exported": exported}


def export(start: int, end: int) -> int:
    """Write one file, under a name that only a finished file has: a step that dies half-way may run again."""
    target = Path("export", f"records-{start:08}.csv")
    target.parent.mkdir(exist_ok=True)
    unfinished = target.with_suffix(".part")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((number, f"record {number}") for number in range(start, end))
    unfinished.replace(target)
    return end - start
