"""A census of the Python standard library, and a first tutorial.

It counts the lines, functions, classes and imports of every module that came with this Python. That takes a
while, so it is done in steps: what has been counted stays counted, whatever happens to the process.

Try it, in the folder that holds this file::

    conductor-supervisor start census:app                # in one terminal
    conductor-supervisor invoke census '{}' --wait       # in another

Press Ctrl-C in the first terminal while it counts, look at ``conductor-supervisor list``, and start it
again: it goes on where it was.

``python census.py`` makes the same count in one plain process, without Conductor, to compare.
"""

import ast
import ctypes
import json
import sys
import sysconfig
import warnings
from dataclasses import asdict, astuple, dataclass
from itertools import groupby
from pathlib import Path

from conductor import Conductor, Context, Event

# Everything is declared on an app. Making one opens nothing: no socket, no database.
app = Conductor()


@dataclass
class Library:
    """The payload: a folder of Python sources. Left out, it is this Python's own library."""

    root: str = sysconfig.get_path("stdlib")


@dataclass
class Counts:
    """The result. Conductor stores it as JSON and gives it back as this type."""

    modules: int = 0
    unreadable: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0
    imports: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


# A task is a function. It may be stopped between two steps and resumed in another process: then it is called
# again from its first line, and a step that is done returns its recorded result without running.
@app.task
def census(event: Event[Library], ctx: Context) -> Counts:
    packages = ctx.step("list packages", list_packages, event.payload.root)
    total = Counts()
    for done, (package, modules) in enumerate(packages.items()):
        ctx.progress(done, len(packages), package)
        total += ctx.step(f"count {package}", count_and_note, package, modules)
    return total


# Tasks run in child processes. This one takes its own down with a real segmentation fault. The crash is
# charged to this task alone; the census does not notice.
@app.task(max_attempts=1)
def crash(event: Event, ctx: Context) -> None:
    ctx.step("read address zero", ctypes.string_at, 0)


def list_packages(root: str) -> dict[str, list[str]]:
    """Return the paths of all modules, by package. A large package comes in parts: no step should be long."""
    packages = {}
    for folder, group in groupby(python_files(Path(root)), key=lambda path: path.parent):
        package = ".".join(folder.relative_to(root).parts) or "top level"
        modules = [str(path) for path in group]
        for part, start in enumerate(range(0, len(modules), 20), start=1):
            name = package if part == 1 else f"{package}, part {part}"
            packages[name] = modules[start : start + 20]
    return packages


def python_files(root: Path) -> list[Path]:
    """Return the library's sources, folder by folder, without what was installed beside it."""
    installed = {"site-packages", "dist-packages"}
    files = (path for path in root.rglob("*.py") if installed.isdisjoint(path.relative_to(root).parts))
    return sorted(files, key=lambda path: (path.parent, path.name))


def count_and_note(package: str, modules: list[str]) -> Counts:
    """Count, and leave a line behind: if a step ran twice, its line would stand there twice."""
    with Path(__file__).with_name("counted.txt").open("a", encoding="utf-8") as notes:
        notes.write(f"{package}\n")
    return count(modules)


def count(modules: list[str]) -> Counts:
    return sum((count_module(Path(module).read_bytes()) for module in modules), Counts())


def count_module(source: bytes) -> Counts:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Counts(unreadable=1)  # some modules of the library's own tests are broken on purpose
    nodes = list(ast.walk(tree))
    return Counts(
        modules=1,
        lines=len(source.splitlines()),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        imports=sum(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes),
    )


def plain_count(root: str) -> Counts:
    """Return the same totals without Conductor: one process, no steps, no database."""
    return count([str(path) for path in python_files(Path(root))])


if __name__ == "__main__":
    print(json.dumps(asdict(plain_count(*sys.argv[1:] or [Library.root]))))
