"""Bytes become typed values in the codec or are refused there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeVar, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from conductor_protocol import codec, messages, operations
from conductor_protocol.errors import ProtocolError
from conductor_protocol.manifest import Manifest, RetrySpec, ScheduleSpec, TaskSpec, WindowSpec
from conductor_protocol.operations import Failure

FROM_RUNNER: tuple[type[messages.FromRunner], ...] = get_args(messages.FromRunner)
TO_RUNNER: tuple[type[messages.ToRunner], ...] = get_args(messages.ToRunner)
T = TypeVar("T")

# On the wire an integer has 64 bits, and text is UTF-8.
integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
failures = st.builds(Failure, type=texts, message=texts, traceback=texts)
recorded_steps = st.builds(messages.RecordedStep, name=texts, result=st.binary(max_size=20))
claims = st.tuples(texts, integers)
assignments = st.builds(
    messages.Assignment,
    execution=texts,
    claim=integers,
    task=texts,
    attempt=integers,
    event=texts,
    scheduled_for=st.none() | integers,
    payload=st.binary(max_size=20),
    steps=st.lists(recorded_steps, max_size=2),
    steps_recorded=integers,
)
FIELDS: dict[object, st.SearchStrategy[object]] = {
    int: integers,
    str: texts,
    bytes: st.binary(max_size=20),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str | None: st.none() | texts,
    int | None: st.none() | integers,
    float | None: st.none() | st.floats(allow_nan=False),
    messages.Channel: st.sampled_from(get_args(messages.Channel)),
    messages.Word: st.sampled_from(get_args(messages.Word)),
    Failure: failures,
    list[tuple[str, int]]: st.lists(claims, max_size=3),
    list[messages.RecordedStep]: st.lists(recorded_steps, max_size=3),
    list[messages.Assignment]: st.lists(assignments, max_size=2),
}
"""How to make a value of each type that a message's field has."""


def any_of(kinds: tuple[type[T], ...]) -> st.SearchStrategy[T]:
    return st.one_of(
        st.builds(kind, **{field.name: FIELDS[field.type] for field in msgspec.structs.fields(kind)})
        for kind in kinds
    )


@given(st.lists(any_of(FROM_RUNNER), max_size=4))
def test_what_a_runner_sends_arrives_unchanged(parcel: list[messages.FromRunner]) -> None:
    """Every message, with any values, several in a parcel."""
    assert codec.unpack_from_runner(codec.pack(parcel)) == parcel


@given(st.lists(any_of(TO_RUNNER), max_size=4))
def test_what_the_supervisor_sends_arrives_unchanged(parcel: list[messages.ToRunner]) -> None:
    """Every message, with any values, several in a parcel."""
    assert codec.unpack_to_runner(codec.pack(parcel)) == parcel


@given(st.lists(any_of(get_args(messages.Report)), max_size=4))
def test_reports_that_were_kept_are_read_unchanged(parcel: list[messages.Report]) -> None:
    """As the flight recorder holds them."""
    assert codec.unpack_reports(codec.pack(parcel)) == parcel


@pytest.mark.parametrize("kind", FROM_RUNNER)
def test_a_runner_cannot_be_sent_its_own_messages(kind: type[messages.FromRunner]) -> None:
    """What belongs to one direction is not a message of the other."""
    if kind in TO_RUNNER:
        return
    frame = msgspec.msgpack.encode([[kind.__name__]])
    with pytest.raises(ProtocolError):
        codec.unpack_to_runner(frame)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_a_frame(frame: bytes) -> None:
    """They are a parcel or a :class:`ProtocolError`, nothing else."""
    for unpack in (codec.unpack_from_runner, codec.unpack_to_runner, codec.unpack_reports):
        try:
            unpack(frame)
        except ProtocolError:
            continue


@given(st.lists(any_of(FROM_RUNNER), min_size=1, max_size=2), st.data())
def test_no_damage_to_a_frame_breaks_its_reading(
    parcel: list[messages.FromRunner], data: st.DataObject
) -> None:
    """One byte of a real frame becomes another: text that is not UTF-8, lengths that lie, and so on."""
    frame = bytearray(codec.pack(parcel))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.unpack_from_runner(bytes(frame))
    except ProtocolError:
        return


def test_text_that_is_not_utf8_is_a_protocol_error() -> None:
    """A runner that sends it must not be able to stop the supervisor."""
    frame = codec.pack([messages.Ask(1, "execution", 1, "step")]).replace(b"step", b"\xff\xfe\xff\xfe")
    with pytest.raises(ProtocolError, match="not a parcel"):
        codec.unpack_from_runner(frame)
    with pytest.raises(ProtocolError, match="not an operation"):
        codec.unpack_operation(b'{"type":"GetExecution","id":"\xff"}')
    with pytest.raises(ProtocolError, match="not an answer"):
        codec.unpack_answer(b'{"type":"NotFound","id":"\xff"}')


def test_json_that_nests_too_deep_is_a_protocol_error() -> None:
    """So is a payload of a million brackets."""
    deep = b'{"type":"InvokeMany","executions":[{"task":"t","payload":' + b"[" * 1_000_000
    with pytest.raises(ProtocolError):
        codec.unpack_operation(deep)


def test_a_frame_over_the_limit_is_refused_unread() -> None:
    """The message gives both sizes."""
    with pytest.raises(ProtocolError, match=f"{codec.MAX_FRAME + 1} bytes came; at most {codec.MAX_FRAME}"):
        codec.unpack_from_runner(bytes(codec.MAX_FRAME + 1))


OPERATIONS = [
    operations.InvokeMany(
        [operations.NewExecution(task="t", payload=Raw(b'{"n":123456789012345678901234567890}'))]
    ),
    operations.GetExecution("1"),
    operations.GetOutcome("1"),
    operations.GetOutput("1", after=7),
    operations.ListExecutions(task="t", state="ready", limit=5, before="9"),
    operations.CancelExecution("1", reason="no longer wanted"),
    operations.RetryExecution("1"),
]
ANSWERS = [
    operations.Invoked(["1", "2"], [True, False]),
    operations.Outcome("completed", Raw(b"[1, 2]")),
    operations.Outcome("failed", error=Failure(type="ValueError", message="bad", traceback="...")),
    operations.Printed(
        "running",
        [
            operations.OutputPiece(
                attempt=1, stream="stderr", time=datetime(2030, 1, 1, tzinfo=UTC), text="\n"
            )
        ],
        last=7,
        complete=True,
    ),
    operations.Listed([]),
    operations.Changed("ready", True),
    operations.NotFound("1"),
    operations.Refused("no such task"),
]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_arrive_unchanged(operation: operations.Operation) -> None:
    """Integers of any size survive, for a payload crosses as it was written."""
    assert codec.unpack_operation(codec.pack_json(operation)) == operation


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_arrive_unchanged(answer: operations.Answer) -> None:
    """Results too cross as they were written."""
    assert codec.unpack_answer(codec.pack_json(answer)) == answer


def test_metadata_arrives_unchanged() -> None:
    """Given or not."""
    for metadata in (Raw(b'{"tenant":7}'), Raw(b"null")):
        operation = operations.InvokeMany([operations.NewExecution(task="t", metadata=metadata)])
        assert codec.unpack_operation(codec.pack_json(operation)) == operation


def test_every_operation_is_tried_above() -> None:
    """A new operation needs a line here."""
    assert {type(operation) for operation in OPERATIONS} == set(get_args(operations.Operation))


def test_a_manifest_arrives_unchanged() -> None:
    """With everything that a task can declare."""
    task = TaskSpec(
        name="t",
        schedules=(ScheduleSpec("nightly", "0 2 * * *", tz="Europe/Berlin", payload=b"{}", catch_up="all"),),
        windows=(WindowSpec("22:00", "06:00", days=("fri", "sat"), grace=60.0),),
        retry=RetrySpec(delays=None, jitter=0.5),
        keep_failed=None,
    )
    manifest = Manifest(app="shop.tasks:app", tasks=(task,), timezone="Europe/Berlin")
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest
