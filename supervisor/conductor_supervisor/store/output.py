"""What executions have printed: the end of it, in chunks, kept as long as the execution."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import BigInteger, Connection, Integer, Text, bindparam, delete, func, insert, select

from conductor_protocol.operations import Stream
from conductor_protocol.units import Instant
from conductor_supervisor.store.dialect import AnyRow, as_list, one_of
from conductor_supervisor.store.schema import executions, output


class Chunk(Struct, frozen=True, kw_only=True):
    """Something that an attempt has printed on one stream."""

    execution: str
    claim: int
    attempt: int
    """Counted from 1."""
    stream: Stream
    time: Instant
    """When it was read."""
    text: str
    """Without zero characters and half surrogates, which databases refuse."""
    size: int
    """Bytes of the text in UTF-8."""
    before: int
    """Bytes that the attempt had printed before this."""


class Page(Struct, frozen=True):
    """Some chunks of one execution, in the order in which they were read."""

    rows: list[tuple[AnyRow, int]]
    """Each with the number of bytes that stood before it in its attempt and are kept no more."""
    last: int
    """The position of the last one; where nothing was found, the one that was asked for."""
    complete: bool
    """Nothing follows."""


def keep(connection: Connection, chunks: Sequence[Chunk], limit: int) -> None:
    """Store what was printed, and drop the oldest chunks of what is more than ``limit`` bytes an execution.

    Of an execution that is gone nothing is stored. Attempts that have ended are no late voices here: what a
    process has printed is read after its last word.
    """
    if not chunks:
        return
    connection.execute(
        _KEEP,
        [
            {
                "execution": chunk.execution,
                "claim": chunk.claim,
                "attempt": chunk.attempt,
                "stream": chunk.stream,
                "time": chunk.time,
                "text": chunk.text,
                "size": chunk.size,
                "before": chunk.before,
            }
            for chunk in chunks
        ],
    )
    ids = list({chunk.execution for chunk in chunks})
    for execution in connection.scalars(_TOO_MUCH, {"ids": as_list(ids), "most": limit}).all():
        connection.execute(_DROP_OLDEST, {"execution": execution, "most": limit})


# The lock is one that only removal minds, which passes over the execution then.
_KEEP = insert(output).from_select(
    ["execution_id", "claim", "attempt", "stream", "time", "text", "size", "printed_before"],
    select(
        executions.c.id,
        bindparam("claim", type_=BigInteger),
        bindparam("attempt", type_=Integer),
        bindparam("stream", type_=Text),
        bindparam("time", type_=BigInteger),
        bindparam("text", type_=Text),
        bindparam("size", type_=Integer),
        bindparam("before", type_=BigInteger),
    )
    .where(executions.c.id == bindparam("execution"))
    .with_for_update(read=True, key_share=True),
)
_TOO_MUCH = (
    select(output.c.execution_id)
    .where(one_of(output.c.execution_id, "ids"))
    .group_by(output.c.execution_id)
    .having(func.sum(output.c.size) > bindparam("most"))
)
_newest_first = (
    select(
        output.c.position,
        func.sum(output.c.size).over(order_by=output.c.position.desc()).label("total"),
    )
    .where(output.c.execution_id == bindparam("execution"))
    .subquery()
)
_DROP_OLDEST = delete(output).where(
    output.c.execution_id == bindparam("execution"),
    output.c.position
    <= select(func.max(_newest_first.c.position))
    .where(_newest_first.c.total > bindparam("most"))
    .scalar_subquery(),
)


def page(connection: Connection, execution: str, after: int, max_bytes: int) -> Page:
    """Return what an execution has printed, from behind a position on.

    :param after: 0 or the ``last`` of the page before.
    :param max_bytes: bytes of text; one chunk comes at least.
    """
    rows: list[tuple[AnyRow, int]] = []
    ends: dict[int, int] = {}
    if after:
        seen = connection.execute(_ENDS, {"execution": execution, "after": after})
        ends = {row.claim: row.end for row in seen}
    with connection.execute(_FROM, {"execution": execution, "after": after}) as found:
        for row in found:
            max_bytes -= row.size
            if rows and max_bytes < 0:
                return Page(rows, after, complete=False)
            rows.append((row, max(0, row.printed_before - ends.get(row.claim, 0))))
            ends[row.claim] = row.printed_before + row.size
            after = row.position
    return Page(rows, after, complete=True)


_ENDS = (
    select(output.c.claim, func.max(output.c.printed_before + output.c.size).label("end"))
    .where(output.c.execution_id == bindparam("execution"), output.c.position <= bindparam("after"))
    .group_by(output.c.claim)
)
_FROM = (
    select(output)
    .where(output.c.execution_id == bindparam("execution"), output.c.position > bindparam("after"))
    .order_by(output.c.position)
)
