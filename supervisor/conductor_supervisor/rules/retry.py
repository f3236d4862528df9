"""Whether an execution gets another attempt, and how long it waits for it."""

from __future__ import annotations

from collections.abc import Callable

from conductor_protocol.manifest import RetrySpec, TaskSpec

Random = Callable[[], float]
"""Gives a number in ``[0, 1)``, like ``random.random``."""


def after_failure(
    task: TaskSpec, charged: int, retryable: bool, retry_after: float | None, random: Random
) -> float | None:
    """Return the seconds to wait before the next attempt, or None if the execution has failed for good.

    :param charged: attempts charged so far, the one that has just failed included.
    :param retryable: False where the handler raised ``Fail`` or a type that is never retried.
    :param retry_after: seconds that the handler asked for by ``RetryAfter``; they replace the backoff, but
        give no attempt beyond the last.
    """
    if not retryable or charged >= task.max_attempts:
        return None
    if retry_after is not None:
        return retry_after
    return delay_before(task.retry, charged, random)


def delay_before(spec: RetrySpec, failed_attempts: int, random: Random) -> float:
    """Return the seconds to wait after this many failed attempts, 1 or more.

    Jitter is applied last, so that executions which all wait for ``maximum`` spread out too.
    """
    wait = (
        _exponential(spec, failed_attempts) if spec.delays is None else _listed(spec.delays, failed_attempts)
    )
    return wait * (1 + spec.jitter * (2 * random() - 1))


def _listed(delays: tuple[float, ...], failed_attempts: int) -> float:
    if not delays:
        return 0.0
    return delays[min(failed_attempts, len(delays)) - 1]


def _exponential(spec: RetrySpec, failed_attempts: int) -> float:
    if spec.initial == 0:
        return 0.0
    try:
        return min(spec.maximum, spec.initial * spec.factor ** (failed_attempts - 1))
    except OverflowError:
        return spec.maximum
