"""``demo``: a census of this machine's Python standard library, stopped, resumed, and crashed beside.

Everything it prints happened. The tasks are those of ``examples/census.py``, copied into the demo's folder.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import click
import msgspec

from conductor_protocol.operations import FINISHED, ExecutionView
from conductor_supervisor.cli import called
from conductor_supervisor.cli.demo_stage import (
    DATABASE,
    NOTES,
    TUTORIAL,
    Daemon,
    Folder,
    Store,
    plain_environment,
    running,
)
from conductor_supervisor.control import RunnerStatus
from conductor_supervisor.errors import SupervisorError

STOP_AT = 0.3
"""Part of the census after which it is stopped."""

FAULTS = {"SIGSEGV", "SIGBUS"}
"""What reading address zero ends with: the first on Linux, either on macOS."""

SHORT = 60.0
LONG = 600.0
"""Seconds before the demo gives up on a start, a stop or a crash; and on a count."""


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("conductor-demo"),
    show_default=True,
    help="Where it happens; made afresh for each run.",
)
@click.option(
    "--library",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Count the Python sources of this folder instead of the standard library.",
)
@click.pass_context
def demo(context: click.Context, folder: Path, library: str | None) -> None:
    """Show the main job on real input, in about a minute."""
    stage = Folder(folder)
    stage.prepare()
    with closing(Store(stage)) as store:
        tour = Tour(stage, store, library or sysconfig.get_path("stdlib"))
        tour.start_and_stop_in_the_middle()
        tour.resume_with_a_crash_beside()
        tour.compare()
        tour.say_what_next()
    context.exit(0 if tour.all_held else 1)


class Tour:
    """The story, in order. Each chapter does something, and checks what came of it."""

    def __init__(self, folder: Folder, store: Store, library: str) -> None:
        self._folder = folder
        self._store = store
        self._library = library
        self._screen = Screen()
        self._census = ""
        self._crash = ""
        self._plain_totals: dict[str, int] = {}
        self.all_held = True

    def start_and_stop_in_the_middle(self) -> None:
        """Start the census, and stop the supervisor when a good part of it is done."""
        say = self._screen.say
        self._screen.chapter("Count, and be stopped in the middle")
        say(f"The task census counts what is in every module below {self._library}.")
        say(f"Its source is {self._folder.path / TUTORIAL}, a tutorial.")
        with running(self._folder) as daemon:
            say(f"Started: conductor-supervisor start   (process {daemon.pid})")
            self._census = self._store.invoke("census", {"root": self._library})
            say(f"Invoked: census   (execution {self._census})")
            self._watch_census(is_well_under_way, daemon)
            say(f"Sending SIGTERM to process {daemon.pid}.")
            status = daemon.terminate(SHORT)
        census = self._store.get(self._census)
        say(f"It is gone. {census.steps_recorded} steps of the census are recorded.")
        self._check("the supervisor ended with status 0", status == 0)
        self._check("no execution is left running", self._store.count_running() == 0)
        self._check("the census waits to go on, with no attempt charged", is_released(census))

    def resume_with_a_crash_beside(self) -> None:
        """Start again; while the census goes on, let another task take its process down."""
        say = self._screen.say
        self._screen.chapter("Go on, with a crash beside it")
        with running(self._folder) as daemon:
            say(f"Started again: conductor-supervisor start   (process {daemon.pid})")
            self._store.wait(self._census, lambda _: self._pid_of_census() is not None, daemon, SHORT)
            runner = self._pid_of_census()
            self._crash = self._store.invoke("crash")
            say(f"Invoked: crash   (execution {self._crash})")
            self._report(self._store.wait(self._crash, is_finished, daemon, SHORT))
            self._check(f"the census goes on in process {runner}", self._pid_of_census() == runner)
            with self._plain_count() as plain:
                say(f"Meanwhile one plain process counts the same: python {TUTORIAL}   (process {plain.pid})")
                self._watch_census(is_finished, daemon)
                self._plain_totals = totals_of(plain)
            self._check("the supervisor ended with status 0", daemon.terminate(SHORT) == 0)

    def compare(self) -> None:
        """Hold the census against the plain count, and its steps against the notes that they left."""
        say = self._screen.say
        self._screen.chapter("Compare")
        census = self._store.get(self._census)
        totals = census.result if isinstance(census.result, dict) else {}
        say(f"{'':12}{'census':>12}{'plain count':>14}")
        for name, number in self._plain_totals.items():
            say(f"{name:12}{totals.get(name, '-'):>12}{number:>14}")
        self._check("the totals are equal", totals == self._plain_totals)
        steps = [step.name.removeprefix("count ") for step in census.steps if step.name != "list packages"]
        notes = self._folder.notes()
        say(f"{len(steps)} counting steps are recorded, made in {len(census.attempts)} runs of the handler.")
        say(f"Each step that ran left a line in {NOTES}: there are {len(notes)}.")
        self._check("every step ran once, and none twice", sorted(notes) == sorted(steps))

    def say_what_next(self) -> None:
        """Tell where everything lies, and what to try."""
        say = self._screen.say
        self._screen.chapter("All of this happened" if self.all_held else "Something is wrong, see above")
        say(f"The database is {self._folder.path / DATABASE}. Try next:")
        say(f"    cd {self._folder.path}")
        command = called.command()
        say(f"    {command} show {self._crash}")
        say(f"    {command} list")
        say(f"    {command} start        (and in another terminal:)")
        say(f"    {command} invoke census '{{}}' --wait")

    def _watch_census(self, until: Callable[[ExecutionView], bool], daemon: Daemon) -> None:
        with self._screen.progress() as show:

            def look(view: ExecutionView) -> None:
                runner = self._runner_of_census()
                show(*progress_of(view), runner.step or "" if runner else "")

            look(self._store.wait(self._census, until, daemon, LONG, look))

    def _runner_of_census(self) -> RunnerStatus | None:
        status = self._folder.status()
        runners = status.runners if status else []
        return next((runner for runner in runners if runner.execution == self._census), None)

    def _pid_of_census(self) -> int | None:
        runner = self._runner_of_census()
        return runner.pid if runner else None

    def _report(self, crash: ExecutionView) -> None:
        report = crash.attempts[-1].crash if crash.attempts else None
        if report is not None:
            self._screen.say(f"The process of crash {report.cause}.")
            for line in crashed_stack(report.stacks):
                self._screen.say(f"    {line}")
        named = report is not None and report.signal in FAULTS and report.step == "read address zero"
        self._check("the crash is reported by its signal and its step", named and crash.state == "failed")

    @contextmanager
    def _plain_count(self) -> Iterator[subprocess.Popen[str]]:
        """Count with the same functions in one process that knows neither steps nor a database."""
        with subprocess.Popen(
            [sys.executable, TUTORIAL, self._library],
            cwd=self._folder.path,
            env=plain_environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _check(self, fact: str, holds: bool) -> None:
        self._screen.verdict(fact, holds)
        self.all_held &= holds


def is_well_under_way(census: ExecutionView) -> bool:
    """Return whether it is time to stop the census."""
    if is_finished(census):
        raise SupervisorError(
            f"the census {census.state} before it could be stopped; count a larger --library"
        )
    done, total = progress_of(census)
    return total is not None and done >= STOP_AT * total


def is_finished(execution: ExecutionView) -> bool:
    """Return whether nothing more will happen to the execution by itself."""
    return execution.state in FINISHED


def is_released(execution: ExecutionView) -> bool:
    """Return whether the execution waits as if it had never been interrupted."""
    return execution.state == "ready" and execution.attempt == 0 and execution.steps_recorded > 0


def crashed_stack(stacks: str, frames: int = 4) -> list[str]:
    """Return what faulthandler wrote of the thread that crashed, its innermost frames only."""
    lines = stacks.splitlines()
    current = next((number for number, line in enumerate(lines) if line.startswith("Current thread")), 0)
    return lines[current : current + 1 + frames]


def totals_of(plain: subprocess.Popen[str]) -> dict[str, int]:
    """Wait for the plain count and return it.

    :raises SupervisorError: if it failed, or does not end in time.
    """
    try:
        output, _ = plain.communicate(timeout=LONG)
        return msgspec.json.decode(output, type=dict[str, int])
    except (subprocess.TimeoutExpired, msgspec.MsgspecError) as error:
        raise SupervisorError(f"the plain count failed: {error}") from error


ShowProgress: TypeAlias = Callable[[int, int | None, str], None]
"""Takes steps done, steps in all, and the step in progress."""


class Screen:
    """What the demo prints: with a live progress bar on a terminal, in plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        """Print one line as it is."""
        self._console.print(f"  {text}", markup=False)

    def verdict(self, fact: str, holds: bool) -> None:
        """Print a fact, and whether it is one."""
        word = "[green]ok[/green]" if holds else "[bold red]NO[/bold red]"
        self._console.print(f"  {word}  {fact}")

    @contextmanager
    def progress(self) -> Iterator[ShowProgress]:
        """Give a function that shows how far the census is."""
        if not self._console.is_terminal:
            yield TenthsOnly(self.say).show
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}", table_column=Column(no_wrap=True)),
        )
        with Progress(*columns, console=self._console) as bar:
            line = bar.add_task("census", total=None, now="")

            def show(done: int, total: int | None, step: str) -> None:
                bar.update(line, completed=done, total=total, now=step)

            yield show


class TenthsOnly:
    """Progress for a log: one line for each tenth."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._tenth = -1

    def show(self, done: int, total: int | None, step: str) -> None:
        """Print a line if another tenth is done."""
        if total and (tenth := 10 * done // total) > self._tenth:
            self._tenth = tenth
            self._say(f"census: {done} of {total} steps   {step}")


def progress_of(census: ExecutionView) -> tuple[int, int | None]:
    """Return how many steps are done, and how many there are in all (None while unknown).

    Recorded steps are counted: the handler's own word, which has the total, is stored once a second only.
    """
    if census.progress is None or census.progress.total is None:
        return 0, None
    total = round(census.progress.total)
    return min(census.steps_recorded, total), total
