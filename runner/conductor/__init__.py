"""Conductor: durable, interruptible background tasks.

This is what task authors and clients import::

    from conductor import Conductor, Context, Event

    app = Conductor()

    @app.task
    def process_dataset(event: Event, ctx: Context):
        items = ctx.step("fetch-items", fetch_items)
        for item in items:
            ctx.step(f"process-{item['id']}", process_item, item)
"""

from conductor.app import Conductor
from conductor.client import Handle, Invocation
from conductor.context import AsyncContext, Context
from conductor.declarations import Cron, DatabaseChange, Limit, Retry, Window
from conductor.errors import (
    ConductorError,
    DatabaseAway,
    DuplicateStep,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionNotFound,
    Fail,
    NotInReplay,
    NotStorable,
    OperationRefused,
    PayloadMismatch,
    Released,
    ResultMismatch,
    RetryAfter,
    StepRefused,
    TooLarge,
    UsageError,
)
from conductor.tasks import Event, Task

__all__ = [  # noqa: RUF022  # by subject, as a newcomer looks for them
    # Declaring
    "Conductor",
    "Cron",
    "DatabaseChange",
    "Limit",
    "Retry",
    "Task",
    "Window",
    # Running
    "AsyncContext",
    "Context",
    "Event",
    "Fail",
    "Released",
    "RetryAfter",
    # Invoking
    "Handle",
    "Invocation",
    # Errors
    "ConductorError",
    "DatabaseAway",
    "DuplicateStep",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionNotFound",
    "NotInReplay",
    "NotStorable",
    "OperationRefused",
    "PayloadMismatch",
    "ResultMismatch",
    "StepRefused",
    "TooLarge",
    "UsageError",
]  # fmt: skip
