"""Which message is legal when: one table, used by both ends and by the tests.

A channel begins ``silent``: only :class:`Hello` is legal. After the supervisor's :class:`Welcome` it is
``open`` until the runner says :class:`Goodbye` (control) or its process ends.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from conductor_protocol import messages as m

Phase: TypeAlias = Literal["silent", "open", "closed"]

FROM_RUNNER: dict[tuple[m.Channel, Phase], dict[type[m.FromRunner], Phase]] = {
    ("data", "silent"): {m.Hello: "open"},
    ("control", "silent"): {m.Hello: "open"},
    ("data", "open"): {
        m.Ask: "open",
        m.StepDone: "open",
        m.LoadSteps: "open",
        m.Operate: "open",
        m.Flush: "open",
        m.Finished: "open",
        m.Failed: "open",
        m.Released: "open",
        m.Interrupted: "open",
        m.Began: "open",
        m.Progress: "open",
        m.Worn: "open",
    },
    ("control", "open"): {m.Heartbeat: "open", m.Returned: "open", m.Goodbye: "closed"},
    ("data", "closed"): {},
    ("control", "closed"): {},
}
"""By channel and phase: the legal messages of a runner, and the phase after each."""

REPLY: dict[type[m.FromRunner], tuple[type[m.ToRunner], ...]] = {
    m.Hello: (m.Welcome,),
    m.Ask: (m.Verdict,),
    m.StepDone: (m.StepAck, m.StepRefused),
    m.LoadSteps: (m.StepPage,),
    m.Operate: (m.Answered,),
    m.Flush: (m.Flushed,),
}
"""What answers what. A runner's message that is not listed gets no reply."""


def next_phase(channel: m.Channel, phase: Phase, message: m.FromRunner) -> Phase | None:
    """Return the phase after a runner's message, or None if the message is illegal now."""
    return FROM_RUNNER[channel, phase].get(type(message))
