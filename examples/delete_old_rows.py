"""Deleting a million old rows without being in the way: batches and checkpoints.

There is nothing to name here, so there are no steps: each batch deletes "the oldest thousand", and what is
deleted stays deleted. A checkpoint asks "may I continue?" between two batches. At a shutdown the task is
released there, and carries on after the restart.
"""

import asyncio
import sqlite3
from contextlib import closing

from conductor import Conductor, Context, Event

app = Conductor()

DELETE_OLDEST = """
    DELETE FROM visits WHERE id IN (
        SELECT id FROM visits WHERE seen_at < date('now', '-1 year') ORDER BY seen_at LIMIT 1000
    )
"""


# A limit of one: two cleaners would only wait for each other's locks.
@app.task(name="delete-old-data", concurrency=1)
async def delete_old_data(event: Event[str], ctx: Context) -> dict[str, bool]:
    """Delete what is older than a year from the database at this path."""
    while await asyncio.to_thread(delete_batch, event.payload):
        await ctx.checkpoint()
    return {"completed": True}


def delete_batch(database: str) -> bool:
    """Delete the oldest thousand; return whether there may be more."""
    with closing(sqlite3.connect(database)) as connection, connection:
        return connection.execute(DELETE_OLDEST).rowcount == 1000
