"""Reads the documentation's pages: their fenced blocks, and the files that a page's Python blocks make up."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/README.md"]
)

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Page:
    """One page of the documentation."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    def blocks(self, language: str) -> list[str]:
        """Return the text of all fenced blocks in this language, in order."""
        text = self.path.read_text(encoding="utf-8")
        return [block for found, block in _BLOCK.findall(text) if found == language]

    def commands(self) -> list[list[str]]:
        """Return the words of each line that a reader types after ``$``."""
        lines = "\n".join(self.blocks("console")).splitlines()
        return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]

    def files(self) -> dict[str, str]:
        """Return the Python files of the page, by name.

        A block that begins with a comment such as ``# client.py`` is that file; all others, in order, are
        ``tasks.py``.
        """
        files: dict[str, str] = {}
        for block in self.blocks("python"):
            named = _FILE.match(block)
            name = named[1] if named else "tasks.py"
            files[name] = files.get(name, "") + block
        return files


def pages() -> list[Page]:
    """Return every page that people read."""
    return [Page(path) for path in PAGES]
