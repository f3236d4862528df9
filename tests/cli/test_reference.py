"""docs/reference.md is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import click

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


def test_the_reference_page_names_every_command_that_prints_json() -> None:
    """Under what ``--json`` prints."""
    told = page(cli).partition("## What `--json` prints")[2]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        if command is not None and any("--json" in option.opts for option in command.params):
            assert re.search(f"^### .*`{name}( [^`]*)? --json`", told, re.MULTILINE), name
