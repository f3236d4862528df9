"""The answer to "may I continue?": the same rule for a checkpoint, a step and a step's acknowledgement."""

from __future__ import annotations

from conductor_protocol.messages import Word


def verdict(*, ours: bool, cancelled: bool, overdue: bool, shutting_down: bool, window_open: bool) -> Word:
    """Return the word for an execution that asks.

    The strongest reason wins. A lost claim comes first, for whatever this attempt does is void. Cancellation
    comes before both releases, for a released execution would only come back to be cancelled. So does an
    attempt that is over its time: a release would not charge it.

    :param ours: whether the runner still holds the execution's live claim.
    :param cancelled: whether somebody asked for the execution's cancellation.
    :param overdue: whether the attempt, or its step, has taken longer than it may.
    """
    if not ours:
        return "abandon"
    if cancelled:
        return "cancelled"
    if overdue:
        return "timeout"
    if shutting_down:
        return "shutdown"
    if not window_open:
        return "window"
    return "go on"
