"""docs/reference.md is what the code says."""

from __future__ import annotations

from pathlib import Path

from conductor_supervisor.cli import COMMANDS, cli
from conductor_supervisor.cli.reference import page
from conductor_supervisor.settings import SETTINGS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"


def test_the_reference_page_is_up_to_date() -> None:
    """After a change: ``conductor-supervisor reference > docs/reference.md``."""
    assert REFERENCE.read_text() == page(cli)


def test_the_reference_page_names_every_command_and_setting() -> None:
    """Nothing is left out but the command that makes the page."""
    text = page(cli)
    for name in COMMANDS.keys() - {"reference"}:
        assert f"\n### {name}\n" in text
    for setting in SETTINGS:
        assert f"| `{setting.name}` |" in text
