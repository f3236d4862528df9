"""The answer to "may I continue?"."""

from __future__ import annotations

from itertools import product

import pytest

from conductor_protocol.messages import Word
from conductor_supervisor.rules.verdict import verdict


def test_with_nothing_in_the_way_it_goes_on() -> None:
    """The usual answer."""
    assert (
        verdict(ours=True, cancelled=False, overdue=False, shutting_down=False, window_open=True) == "go on"
    )


@pytest.mark.parametrize(
    ("word", "weaker"),
    [
        ("abandon", ("cancelled", "timeout", "shutdown", "window")),
        ("cancelled", ("timeout", "shutdown", "window")),
        ("timeout", ("shutdown", "window")),
        ("shutdown", ("window",)),
        ("window", ()),
    ],
)
def test_the_strongest_reason_wins(word: Word, weaker: tuple[Word, ...]) -> None:
    """Whichever of the weaker reasons hold too."""
    for held in product([True, False], repeat=len(weaker)):
        reasons = {word, *(reason for reason, holds in zip(weaker, held, strict=True) if holds)}
        answer = verdict(
            ours="abandon" not in reasons,
            cancelled="cancelled" in reasons,
            overdue="timeout" in reasons,
            shutting_down="shutdown" in reasons,
            window_open="window" not in reasons,
        )
        assert answer == word
