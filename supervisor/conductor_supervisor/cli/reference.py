"""``reference`` (hidden): prints docs/reference.md, made from the commands and settings themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import get_args

import click
from msgspec import Struct

from conductor_protocol.manifest import CatchUp, WindowSpec
from conductor_protocol.operations import (
    AttemptOutcome,
    AttemptView,
    CrashReport,
    ExecutionView,
    Failure,
    ProgressView,
    State,
    StepView,
    Stream,
)
from conductor_supervisor.cli.declared import ScheduleView, TaskView
from conductor_supervisor.cli.doctor import Finding, Health
from conductor_supervisor.cli.executions import ChangedView, InvokedView, OutcomeView
from conductor_supervisor.cli.health import HealthView
from conductor_supervisor.cli.many import ManyView
from conductor_supervisor.cli.moving import CopyView, TableCopy
from conductor_supervisor.cli.operate import (
    Paused,
    PauseView,
    ReloadView,
    Sharing,
    Silent,
    StatusView,
    StopView,
    SupervisorView,
)
from conductor_supervisor.cli.output import OutputLine
from conductor_supervisor.cli.replay import End, ReplayView
from conductor_supervisor.cli.top import Load, TopView
from conductor_supervisor.cli.upkeep import MigrateView
from conductor_supervisor.cli.waiting import Waiting
from conductor_supervisor.control import Beside, RunnerStatus, SupervisorState
from conductor_supervisor.settings import QUEUE, SETTINGS, TASK
from conductor_supervisor.store.tasks import Kind

PROGRAM = "conductor-supervisor"

EVERYWHERE = {"database", "config", "runtime"}
"""Options of every command that works on a database: described once."""

INTRODUCTION = """\
# Reference: the command and its settings

Made from the code by `conductor-supervisor reference`; do not edit it by hand.

Exit status: 0 done, 1 failure, 2 wrong usage, 130 interrupted. Answers go to stdout, remarks and errors to
stderr. Tables are plain text in a pipe; colours are left out there and where `NO_COLOR` is set.

Durations are seconds or text such as `90s`, `15m`, `1h30m`, `7d`. Sizes are bytes or text such as `512KiB`.
An `ID` is an execution's id, or at least the last six characters of one.

Every command that works on a database also takes `--database URL` (the database to use), `--config FILE` (the
settings file to read) and `--runtime DIR` (the folder of the supervisor's sockets and lock).

## Where settings come from

In rising order: defaults; `conductor.toml` in the current folder, or else `[tool.conductor]` in its
`pyproject.toml`; environment variables; options. `--config FILE` names another file.

Where neither file, variable nor option names the database, it is the app's own, `Conductor(database=...)`. A
command then imports the app in a child process to ask it; name the database to save that time.
"""

TABLES = """\
### `[queues.NAME]`

A queue that is named here has runners of its own; all other queues share the `runners` above.
Keys: {queue}.

### `[tasks.NAME]`

What is set here wins over the code. Keys: {task}.

- `concurrency`, `rate`, `timeout`, `memory`, `hang_after`: `false` removes the limit.
- `concurrency`: a number, `{{limit = 2, key = "tenant"}}`, or a list of one without a key and one with a key.
  It takes the place of all that the code says of `concurrency`.
- `rate`: a text such as `"100/minute"` or `"10/30s"`.
- `window`: `["20:00", "06:00"]`, or a table `{{start, end, tz, days, grace}}`, or a list of either; `false`
  is always open.
- `keep_completed`, `keep_failed`: how long finished executions are kept; `false` is for ever, `true` not at
  all.

```toml
app = "shop.tasks:app"
runners = 4

[queues.media]
runners = 2

[tasks.process-video]
concurrency = 3
timeout = "10m"
window = ["20:00", "06:00"]
```
"""

JSON_INTRODUCTION = """\
## What `--json` prints

These fields stay; more may come. Moments are ISO 8601 in UTC, durations seconds, sizes bytes. Fields of a
`Failure` that are empty are left out. Fields of these types hold one of a few words:
"""

WORDS: dict[str, object] = {
    "State": State,
    "AttemptOutcome": AttemptOutcome,
    "Stream": Stream,
    "Kind": Kind,
    "CatchUp": CatchUp,
    "Health": Health,
    "End": End,
    "SupervisorState": SupervisorState,
}
"""Types of fields that hold one of a few words."""

JSON_OUTPUT: tuple[tuple[str, tuple[type[Struct], ...]], ...] = (
    (
        (
            "`list --json` is an array of executions, without attempts and steps; `show ID --json` is one, "
            "whole; `attempt` is how many attempts were charged"
        ),
        (ExecutionView, AttemptView, CrashReport, Failure, StepView, ProgressView),
    ),
    (
        "`invoke TASK --json`, and `OutcomeView` with `--wait`; its `Failure` is that of `show`",
        (InvokedView, OutcomeView),
    ),
    ("`status --json`", (StatusView, SupervisorView, Silent, Sharing, RunnerStatus, Beside, Paused, Waiting)),
    ("`health --json`", (HealthView,)),
    ("`logs ID --json` is an array of lines", (OutputLine,)),
    ("`top --json`; its `StatusView` is that of `status`", (TopView, Load)),
    ("`replay ID --json`; its `Failure` is that of `show`", (ReplayView,)),
    ("`tasks --json` is an array", (TaskView, WindowSpec)),
    ("`schedules --json` is an array", (ScheduleView,)),
    ("`doctor --json` is an array", (Finding,)),
    (
        (
            "`cancel ID --json`; `retry ID... --json` is an array; `state` is the one after the change, "
            "which is `running` still where a running one was asked to stop"
        ),
        (ChangedView,),
    ),
    ("`cancel --task TASK --json`, `retry --task TASK --json`", (ManyView,)),
    ("`pause NAME --json`, `resume NAME --json`", (PauseView,)),
    ("`stop --json`", (StopView,)),
    ("`reload --json`", (ReloadView,)),
    ("`migrate --json`", (MigrateView,)),
    ("`copy-to URL --json`", (CopyView, TableCopy)),
)


@click.command(hidden=True)
@click.pass_context
def reference(context: click.Context) -> None:
    """Print the reference page, as Markdown."""
    root = context.find_root().command
    if isinstance(root, click.Group):
        click.echo(page(root), nl=False)


def page(commands: click.Group) -> str:
    """Return the reference page."""
    lines = [INTRODUCTION, *_settings(), "", *_tables(), *_commands(commands), *_json_output()]
    return "\n".join(lines).rstrip() + "\n"


def _settings() -> Iterator[str]:
    yield "| setting | meaning | example | default | environment |"
    yield "| --- | --- | --- | --- | --- |"
    for setting in SETTINGS:
        variables = ", ".join(f"`{variable}`" for variable in setting.variables)
        example = f"`{setting.example}`" if setting.example else ""
        yield f"| `{setting.name}` | {setting.meaning} | {example} | {setting.default} | {variables} |"


def _tables() -> Iterator[str]:
    yield TABLES.format(queue=_names(QUEUE), task=_names(TASK))


def _names(keys: Iterable[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys)


def _commands(commands: click.Group) -> Iterator[str]:
    context = click.Context(commands, info_name=PROGRAM)
    found = [(name, commands.get_command(context, name)) for name in commands.list_commands(context)]
    yield "## Commands\n"
    for name, command in found:
        if command is not None and not command.hidden:
            yield from _command(name, command, context)


def _command(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([PROGRAM, name, *command.collect_usage_pieces(context)])
    yield f"### {name}\n\n```text\n{usage}\n```\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in EVERYWHERE:
            yield _option(option)
    yield ""


def _option(option: click.Option) -> str:
    written = ", ".join(option.opts)
    if not option.is_flag:
        written += f" {option.metavar or str(option.name).upper()}"
    choices = f" One of {_names(option.type.choices)}." if isinstance(option.type, click.Choice) else ""
    default = f" Default: {option.default}." if option.show_default else ""
    return f"- `{written}`: {option.help}{choices}{default}"


def _json_output() -> Iterator[str]:
    yield JSON_INTRODUCTION
    yield from (f"- {name}: {_names(get_args(words))}" for name, words in WORDS.items())
    yield ""
    for heading, structs in JSON_OUTPUT:
        yield f"### {heading}\n"
        for struct in structs:
            fields = ", ".join(f"`{name}` {_kind(struct, name)}" for name in struct.__struct_fields__)
            yield f"- {struct.__name__}: {fields}"
        yield ""


def _kind(struct: type[Struct], field: str) -> str:
    """Return a field's type as its author wrote it."""
    written = str(inspect.get_annotations(struct)[field])
    return written.replace(" | None", " or null").replace("object", "any JSON").replace("control.", "")
