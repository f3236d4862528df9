"""Clients: creating executions, looking at them, waiting for their results.

Outside a runner, operations go straight to the database, through the one door that leads there; it is
imported when first used, so that nothing else in this package knows the store. Inside a runner they go to the
supervisor, and a runner never opens Conductor's database. What goes into a transaction of the caller's own is
written on the connection that they lend, wherever they are.
"""

from __future__ import annotations

import builtins
import functools
import logging  # noqa: F401  # its hook, by which a fork takes its lock, must be registered before ours
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, Unpack
from weakref import WeakSet

import msgspec

from conductor import arguments, values
from conductor.arguments import ExecutionName, TaskName
from conductor.connections import OwnAsyncConnection, OwnConnection
from conductor.errors import (
    DatabaseAway,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionNotFound,
    OperationRefused,
    PayloadMismatch,
    ResultMismatch,
    TooLarge,
)
from conductor_protocol import operations
from conductor_protocol.errors import UsageError
from conductor_protocol.limits import LONGEST_KEY, is_key, key_in
from conductor_protocol.operations import (
    FINISHED,
    Answer,
    CancelExecution,
    Changed,
    ExecutionView,
    Found,
    GetExecution,
    GetOutcome,
    Invoked,
    InvokeMany,
    Listed,
    ListExecutions,
    NewExecution,
    NotFound,
    Operation,
    Outcome,
    Refused,
    RetryExecution,
    State,
)
from conductor_protocol.units import Duration, in_words, instant, seconds

if TYPE_CHECKING:
    from conductor.tasks import Task
    from conductor_supervisor.door import Door

Result = TypeVar("Result")
A = TypeVar("A", bound=Answer)

FIRST_WAIT = 0.002
"""Seconds before a waiting client looks again; each wait is half as long again as the one before."""

LONGEST_WAIT = 0.1

LONGEST_AWAY = 60.0
"""Seconds in a row that the database may be away from somebody who waits for a result."""

PRIORITIES = range(-32768, 32768)


class InvokeOptions(TypedDict, total=False):
    """How an execution is created."""

    delay: Duration
    """Not before so much time has passed."""
    run_at: datetime
    """Not before this moment; needs a time zone."""
    priority: int
    """Higher first."""
    dedupe_key: str
    """While an execution of the task with this key is unfinished, the same key gives that one back."""
    concurrency_key: str
    """What it is counted under where its task limits by key. Default: what the payload says."""
    metadata: dict[str, Any]
    """Kept with the execution; Conductor does not read it."""


class Invocation:
    """A payload with options of its own, for ``invoke_many``.

    :raises UsageError: if an option cannot be meant.
    """

    def __init__(self, payload: object = None, **options: Unpack[InvokeOptions]) -> None:
        self.payload = payload
        self.options = options
        unknown = options.keys() - InvokeOptions.__annotations__.keys()
        if unknown:
            known = ", ".join(InvokeOptions.__annotations__)
            raise UsageError(f"unknown option {unknown.pop()!r} of an invocation; there are: {known}")
        if "delay" in options and "run_at" in options:
            raise UsageError("expected either delay or run_at, got both; write the one you mean")

    def new_execution(self, task: str, payload: bytes, key_path: str | None) -> NewExecution:
        """Return what is to be created.

        :param payload: JSON, checked.
        :param key_path: the payload's field that gives the concurrency key, if the task declares one here.
        :raises PayloadMismatch: if there is something there that cannot be a key.
        """
        options = self.options
        run_at = options.get("run_at")
        concurrency_key = _concurrency_key(options.get("concurrency_key"))
        if concurrency_key is None and key_path is not None:
            _check_key(task, payload, key_path)
        return NewExecution(
            task=task,
            payload=msgspec.Raw(payload),
            delay=seconds(options.get("delay", 0), "delay"),
            run_at=None if run_at is None else _instant(run_at),
            priority=_priority(options.get("priority", 0)),
            dedupe_key=_dedupe_key(options.get("dedupe_key")),
            concurrency_key=concurrency_key,
            key_path=key_path,
            metadata=_metadata(options.get("metadata")),
        )


def _instant(run_at: object) -> int:
    if not isinstance(run_at, datetime):
        raise UsageError(f"run_at: expected a datetime with a time zone, got {run_at!r}")
    try:
        return instant(run_at)
    except UsageError as error:
        raise UsageError(f"run_at: {error}") from error


def _priority(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in PRIORITIES:
        raise UsageError(
            f"priority: expected a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}, got {value!r}"
        )
    return value


def _dedupe_key(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and 1 <= len(value) <= 500):
        raise UsageError(f"dedupe_key: expected 1 to 500 characters of text, got {value!r}")
    return value


def _concurrency_key(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and value and is_key(value)):
        raise UsageError(
            f"concurrency_key: expected 1 to {LONGEST_KEY} characters of text without zeros, got {value!r}"
        )
    return value


def _check_key(task: str, payload: bytes, path: str) -> None:
    try:
        key_in(payload, path)
    except UsageError as error:
        raise PayloadMismatch(f"the payload does not fit what task {task} expects: {error}") from error


def _metadata(value: object) -> msgspec.Raw:
    if not isinstance(value, dict | None):
        raise UsageError(f'metadata: expected a dict such as {{"tenant": "acme"}}, got {value!r}')
    return msgspec.Raw(values.encode(value, "metadata"))


# Who performs operations


class Supervisor(Protocol):
    """Performs operations for its runners."""

    def perform(self, operation: Operation) -> Answer:
        """Perform an operation."""

    async def perform_async(self, operation: Operation) -> Answer:
        """Perform an operation without holding up the event loop."""


class Performer(Protocol):
    """Performs operations: at once, or, those that create executions, on a connection of the caller's."""

    def perform(self, operation: Operation) -> Answer:
        """Perform an operation."""

    async def perform_async(self, operation: Operation) -> Answer:
        """Perform an operation without holding up the event loop."""

    def perform_on(self, connection: OwnConnection, operation: InvokeMany) -> Answer:
        """Create executions in the caller's transaction."""

    async def perform_on_async(self, connection: OwnAsyncConnection, operation: InvokeMany) -> Answer:
        """Create executions in the caller's transaction without holding up the event loop."""


class StorePerformer:
    """Goes through the door to the database, which is opened at the first operation."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._door: Door | None = None
        self._process = 0
        _performers.add(self)

    def perform(self, operation: Operation) -> Answer:
        """Perform an operation on the database."""
        return self._opened().perform(operation)

    async def perform_async(self, operation: Operation) -> Answer:
        """Perform an operation on the database, in a thread."""
        import asyncio

        return await asyncio.to_thread(self.perform, operation)

    def perform_on(self, connection: OwnConnection, operation: InvokeMany) -> Answer:
        """Create executions on a connection of the caller's; the database is not opened for that."""
        return self._opened().perform_on(connection, operation)

    async def perform_on_async(self, connection: OwnAsyncConnection, operation: InvokeMany) -> Answer:
        """See :meth:`perform_on`."""
        return await self._opened().perform_on_async(connection, operation)

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            if self._door is not None and self._process == os.getpid():
                self._door.close()
            self._door = None

    def before_fork(self) -> None:
        """Wait until no thread imports, opens or writes: the child would wait for its end for ever."""
        self._lock.acquire()
        if self._door is not None:
            self._door.before_fork()

    def after_fork(self) -> None:
        """Go on, in the parent."""
        if self._door is not None:
            self._door.after_fork()
        self._lock.release()

    def begin_anew(self) -> None:
        """Go on, in the child; the door begins anew by itself."""
        self._lock.release()

    def _opened(self) -> Door:
        with self._lock:
            if self._door is None or self._process != os.getpid():  # a fork must not share connections
                from conductor_supervisor.door import Door

                self._door = Door(self._url)
                self._process = os.getpid()
            return self._door


_performers: WeakSet[StorePerformer] = WeakSet()
_forking: list[StorePerformer] = []


def _before_fork() -> None:
    for performer in list(_performers):
        performer.before_fork()
        _forking.append(performer)


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().after_fork()


def _after_fork_in_child() -> None:
    while _forking:
        _forking.pop().begin_anew()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)


class RunnerPerformer(StorePerformer):
    """In a runner: the supervisor performs, but for what is written on a connection of the handler's own."""

    def __init__(self, url: str, supervisor: Supervisor) -> None:
        super().__init__(url)
        self._supervisor = supervisor

    def perform(self, operation: Operation) -> Answer:
        """Have the supervisor perform an operation."""
        return self._supervisor.perform(operation)

    async def perform_async(self, operation: Operation) -> Answer:
        """Have the supervisor perform an operation."""
        return await self._supervisor.perform_async(operation)


_runner: tuple[str, Performer] | None = None
"""In a runner: the URL of its app's database, and who performs what is asked of it."""


def enter_runner(url: str, performer: Performer | None) -> None:
    """Let clients of this database go to this performer from now on; None: no longer."""
    global _runner  # noqa: PLW0603  # a process is a runner or it is not
    _runner = None if performer is None else (url, performer)


class Client:
    """What an app's clients can do. :class:`~conductor.app.Conductor` is one."""

    def __init__(self) -> None:
        self._store: StorePerformer | None = None
        self._store_url = ""

    def database_url(self) -> str:
        """Return the database to use."""
        raise NotImplementedError

    def find_task(self, name: str) -> Task[..., Any, Any] | None:
        """Return what is declared under a name; None if tasks are declared elsewhere.

        :raises UsageError: if there cannot be such a task.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the database; the next operation opens it again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _performer(self) -> Performer:
        url = self.database_url()
        if _runner is not None and _runner[0] == url:
            return _runner[1]
        if self._store is None or self._store_url != url:
            self.close()
            self._store, self._store_url = StorePerformer(url), url
        return self._store

    def _perform(self, operation: Operation, kind: type[A]) -> A:
        return _expect(self._performer().perform(operation), kind)

    async def _perform_async(self, operation: Operation, kind: type[A]) -> A:
        return _expect(await self._performer().perform_async(operation), kind)

    # Invoking

    def invoke(
        self,
        task: TaskName,
        payload: object = None,
        *,
        connection: OwnConnection | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Handle[Any]:
        """Create an execution of the task, or of the task of this name, and return its handle.

        :param connection: your own connection to the app's database, or session: the execution is created
            in its transaction, when you commit that. Errors of the database come as your library raises them.
        :raises PayloadMismatch: if the payload does not fit; nothing is written then.
        :raises TooLarge: if it is larger than ``max_payload``: 1 MiB, or what ``CONDUCTOR_MAX_PAYLOAD`` says.
        :raises UsageError: if there is no such task, it is not invocable, or an option cannot be meant.
        """
        return self.invoke_many(task, [Invocation(payload, **options)], connection=connection)[0]

    async def invoke_async(
        self,
        task: TaskName,
        payload: object = None,
        *,
        connection: OwnAsyncConnection | None = None,
        **options: Unpack[InvokeOptions],
    ) -> Handle[Any]:
        """See :meth:`invoke`."""
        invocations = [Invocation(payload, **options)]
        return (await self.invoke_many_async(task, invocations, connection=connection))[0]

    def invoke_many(
        self, task: TaskName, payloads: Iterable[object], *, connection: OwnConnection | None = None
    ) -> builtins.list[Handle[Any]]:
        """Create one execution for each payload or :class:`Invocation`, all or none; return their handles.

        :param connection: as for :meth:`invoke`, which also tells what is raised.
        """
        name = arguments.task_name(task, "invoke(task)")
        invocations = self._invocations(name, payloads)
        performer = self._performer()
        if connection is None:
            answer = performer.perform(invocations)
        else:
            answer = performer.perform_on(connection, invocations)
        return self._handles(name, _expect(answer, Invoked))

    async def invoke_many_async(
        self, task: TaskName, payloads: Iterable[object], *, connection: OwnAsyncConnection | None = None
    ) -> builtins.list[Handle[Any]]:
        """See :meth:`invoke_many`."""
        name = arguments.task_name(task, "invoke(task)")
        invocations = self._invocations(name, payloads)
        performer = self._performer()
        if connection is None:
            answer = await performer.perform_async(invocations)
        else:
            answer = await performer.perform_on_async(connection, invocations)
        return self._handles(name, _expect(answer, Invoked))

    def _invocations(self, task: str, payloads: Iterable[object]) -> InvokeMany:
        declared = self.find_task(task)
        if declared is not None and not declared.spec.invocable:
            raise UsageError(
                f"task {task} is not invocable, because it has another trigger; to allow both, declare it "
                "with invocable=True"
            )
        if isinstance(payloads, (str, bytes, Mapping)) or not isinstance(payloads, Iterable):
            raise UsageError(f"invoke_many: expected a list of payloads, got {payloads!r}")
        encode = functools.partial(_encode_payload, task) if declared is None else declared.payload_to_json
        invocations = (one if isinstance(one, Invocation) else Invocation(one) for one in payloads)
        by_key = None if declared is None else declared.spec.concurrency_by_key
        path = None if by_key is None else by_key.key
        return InvokeMany([one.new_execution(task, encode(one.payload), path) for one in invocations])

    def _handles(self, task: str, invoked: Invoked) -> builtins.list[Handle[Any]]:
        declared = self.find_task(task)
        annotation = Any if declared is None else declared.result_annotation
        return [
            Handle(self, execution, created, annotation)
            for execution, created in zip(invoked.ids, invoked.created, strict=True)
        ]

    # Looking and changing

    def get(self, execution: ExecutionName) -> ExecutionView:
        """Return an execution with its attempts and steps.

        :raises ExecutionNotFound: if there is none.
        :raises UsageError: if an argument cannot be meant; so for all that follow.
        """
        return self._perform(_get(execution), Found).execution

    async def get_async(self, execution: ExecutionName) -> ExecutionView:
        """See :meth:`get`."""
        return (await self._perform_async(_get(execution), Found)).execution

    def list(
        self,
        *,
        task: TaskName | None = None,
        state: State | None = None,
        limit: int = 100,
        before: ExecutionName | None = None,
    ) -> builtins.list[ExecutionView]:
        """Return executions, newest first, without their attempts and steps.

        :param limit: from 1 to 1,000.
        :param before: only those created before this one: the last of the page before.
        """
        return self._perform(_list(task, state, limit, before), Listed).executions

    async def list_async(
        self,
        *,
        task: TaskName | None = None,
        state: State | None = None,
        limit: int = 100,
        before: ExecutionName | None = None,
    ) -> builtins.list[ExecutionView]:
        """See :meth:`list`."""
        return (await self._perform_async(_list(task, state, limit, before), Listed)).executions

    def cancel(self, execution: ExecutionName, reason: str | None = None) -> bool:
        """Cancel a waiting execution, or ask a running one to stop. False if it had finished.

        :raises ExecutionNotFound: if there is none.
        """
        return self._perform(_cancel(execution, reason), Changed).changed

    async def cancel_async(self, execution: ExecutionName, reason: str | None = None) -> bool:
        """See :meth:`cancel`."""
        return (await self._perform_async(_cancel(execution, reason), Changed)).changed

    def retry(self, execution: ExecutionName) -> bool:
        """Give a failed or cancelled execution new attempts; its steps stay. False if it is in neither state.

        :raises ExecutionNotFound: if there is none.
        """
        return self._perform(_retry(execution), Changed).changed

    async def retry_async(self, execution: ExecutionName) -> bool:
        """See :meth:`retry`."""
        return (await self._perform_async(_retry(execution), Changed)).changed

    def outcome(self, execution: str) -> Outcome:
        """Return state, result and error only.

        :raises ExecutionNotFound: if there is no such execution.
        """
        return self._perform(GetOutcome(execution), Outcome)

    async def outcome_async(self, execution: str) -> Outcome:
        """See :meth:`outcome`."""
        return await self._perform_async(GetOutcome(execution), Outcome)


def _get(execution: ExecutionName) -> GetExecution:
    return GetExecution(arguments.execution_id(execution, "get(execution)"))


def _list(
    task: TaskName | None, state: State | None, limit: int, before: ExecutionName | None
) -> ListExecutions:
    return ListExecutions(
        task=None if task is None else arguments.task_name(task, "list(task)"),
        state=None if state is None else arguments.state(state),
        limit=arguments.limit(limit),
        before=None if before is None else arguments.older_than(before),
    )


def _cancel(execution: ExecutionName, reason: str | None) -> CancelExecution:
    return CancelExecution(
        id=arguments.execution_id(execution, "cancel(execution)"), reason=arguments.reason(reason)
    )


def _retry(execution: ExecutionName) -> RetryExecution:
    return RetryExecution(arguments.execution_id(execution, "retry(execution)"))


def _encode_payload(task: str, payload: object) -> bytes:
    return values.encode(payload, f"the payload of task {task}")


def _expect(answer: Answer, kind: type[A]) -> A:
    if isinstance(answer, kind):
        return answer
    if isinstance(answer, NotFound):
        raise ExecutionNotFound(f"no execution has the id {answer.id!r}")
    if isinstance(answer, operations.TooLarge):
        raise TooLarge(answer.message)
    if isinstance(answer, Refused):
        raise OperationRefused(answer.message)
    raise OperationRefused(f"expected {kind.__name__} as an answer, got {type(answer).__name__}")


class Handle(Generic[Result]):
    """An execution that was invoked."""

    def __init__(self, client: Client, execution: str, created: bool, annotation: object = Any) -> None:
        """:param annotation: what the task says that it returns."""
        self._client = client
        self._annotation = annotation
        self.id = execution
        self.created = created
        """False where a dedupe key gave back an execution that was there already."""

    def state(self) -> State:
        """Return where the execution is in its life."""
        return self._client.outcome(self.id).state

    async def state_async(self) -> State:
        """See :meth:`state`."""
        return (await self._client.outcome_async(self.id)).state

    def result(self, timeout: Duration | None = None) -> Result:
        """Wait until the execution has ended and return its result, as the task's return annotation says.

        A handler that waits here holds its runner. If all runners wait for executions that wait for a runner,
        nothing moves: give a timeout.

        :param timeout: None waits for ever.
        :raises ExecutionFailed: if it failed.
        :raises ExecutionCancelled: if it was cancelled.
        :raises TimeoutError: if it has not ended in time; that changes nothing for it.
        :raises ResultMismatch: if the result does not fit the annotation.
        :raises DatabaseAway: if the database has been away for a minute; a shorter trouble is waited for.
        """
        sight = _Sight()
        for wait in _waits(timeout):
            with sight:
                sight.outcome = self._client.outcome(self.id)
            if sight.outcome is not None and sight.outcome.state in FINISHED:
                return self._result_of(sight.outcome)
            time.sleep(wait)
        raise TimeoutError(sight.not_ended(self.id, timeout))

    async def result_async(self, timeout: Duration | None = None) -> Result:  # noqa: ASYNC109  # as result()
        """See :meth:`result`."""
        import asyncio

        sight = _Sight()
        for wait in _waits(timeout):
            with sight:
                sight.outcome = await self._client.outcome_async(self.id)
            if sight.outcome is not None and sight.outcome.state in FINISHED:
                return self._result_of(sight.outcome)
            await asyncio.sleep(wait)
        raise TimeoutError(sight.not_ended(self.id, timeout))

    def _result_of(self, outcome: Outcome) -> Result:
        if outcome.state == "failed" and outcome.error is not None:
            raise ExecutionFailed(self.id, outcome.error)
        if outcome.state == "cancelled":
            raise ExecutionCancelled(self.id, outcome.cancel_reason)
        try:
            result: Result = values.decode(bytes(outcome.result or b"null"), self._annotation)
        except msgspec.ValidationError as error:
            raise ResultMismatch(
                f"the result of execution {self.id} does not fit the return annotation of its task, "
                f"{self._annotation}: {error}"
            ) from error
        return result

    def __repr__(self) -> str:
        return f"<execution {self.id}>"


def _waits(timeout: Duration | None) -> Iterator[float]:
    """Give the seconds to wait after each look, once at least, until the time is over."""
    limit = float("inf") if timeout is None else seconds(timeout, "timeout")
    started = time.monotonic()
    wait = FIRST_WAIT
    left = limit
    while True:
        yield max(0.0, min(wait, left))
        if left <= 0:
            return
        wait = min(wait * 1.5, LONGEST_WAIT)
        left = started + limit - time.monotonic()


class _Sight:
    """What somebody who waits has seen last. Within it, the database may be away for a while."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self._away: DatabaseAway | None = None
        self._away_since = 0.0

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, DatabaseAway):
            self._away = None
            return False
        now = time.monotonic()
        if self._away is None:
            self._away_since = now
        self._away = error
        return now - self._away_since < LONGEST_AWAY

    def not_ended(self, execution: str, timeout: Duration | None) -> str:
        """Say that the time is over, and what is known."""
        limit = "any time" if timeout is None else in_words(seconds(timeout, "timeout"))
        if self._away is not None:
            return f"execution {execution} was not seen to end within {limit}: {self._away}"
        state = None if self.outcome is None else self.outcome.state
        goes_on = "it goes on" if state == "running" else "it has not started, or waits for its next attempt"
        return f"execution {execution} is {state}, and has not ended within {limit}; {goes_on}"
