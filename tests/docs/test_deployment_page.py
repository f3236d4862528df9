"""What docs/deployment.md shows of the files in deploy/ is what they say."""

from __future__ import annotations

import re

import pytest
from docs_pages import ROOT, Page

from conductor_protocol.units import in_words
from conductor_supervisor import control
from conductor_supervisor.supervisor import LONGEST_END
from harness import parse

PAGE = Page(ROOT / "docs/deployment.md")
DEPLOY = ROOT / "deploy"
SHOWN = {
    "ini": ["conductor-supervisor.service"],
    "yaml": ["container/compose.yaml", "kubernetes/supervisor.yaml"],
}
"""By language of a block: the files of which some has its lines."""


@pytest.mark.parametrize("language", SHOWN)
def test_every_line_shown_stands_in_its_file(language: str) -> None:
    """All of a block in one file, in this order."""
    files = [(DEPLOY / name).read_text().splitlines() for name in SHOWN[language]]
    blocks = PAGE.blocks(language)
    assert blocks
    for block in blocks:
        assert any(_in_order(block.splitlines(), lines) for lines in files), block


def _in_order(shown: list[str], lines: list[str]) -> bool:
    rest = iter(lines)
    return all(line in rest for line in shown)


def test_files_and_commands_inside_others_exist() -> None:
    """What follows the name of a pod or a service is ours."""
    for program, *arguments in PAGE.commands():
        if program in ("docker", "kubectl") and "conductor-supervisor" in arguments:
            parse(arguments[arguments.index("conductor-supervisor") + 1 :])
        for argument in arguments:
            assert not argument.startswith("deploy/") or "." not in argument or (ROOT / argument).exists()


def test_the_times_on_the_page_are_those_of_the_code() -> None:
    """And in the comments of the files."""
    end = f"{LONGEST_END:.0f} s"
    texts = [PAGE.path, *(path for path in DEPLOY.rglob("*") if path.is_file())]
    for path in texts:
        said = re.findall(r"(\d+ s) (?:more|in which)", path.read_text())
        assert set(said) <= {end}, path
    assert f"grace and {end} more" in PAGE.path.read_text()
    assert control.ANSWER_TIME == 5, f"the page says five seconds, not {in_words(control.ANSWER_TIME)}"
