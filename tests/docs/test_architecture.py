"""The architecture page speaks of modules, functions and moves that exist."""

from __future__ import annotations

import pkgutil
import re

import pytest
from docs_pages import ROOT

from conductor_supervisor.rules import lifecycle

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
PACKAGES = ("conductor_supervisor", "conductor_protocol", "conductor", "conductor.child")


def dotted_names() -> list[str]:
    """Return every name such as ``work.Work.take`` that the page sets in code."""
    return sorted(set(re.findall(r"`([a-z_]+(?:\.\w+)+)`", PAGE)))


def exists(name: str) -> bool:
    for package in PACKAGES:
        try:
            pkgutil.resolve_name(f"{package}.{name}")
        except (ImportError, AttributeError):
            continue
        return True
    return False


@pytest.mark.parametrize("name", dotted_names())
def test_every_name_on_the_page_exists(name: str) -> None:
    assert exists(name)


def test_the_table_of_moves_is_the_one_in_the_code() -> None:
    assert lifecycle.as_markdown() in PAGE
