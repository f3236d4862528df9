"""Settings come from four places in rising order, and whatever cannot be meant is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from conductor.tasks import TaskOptions
from conductor_protocol.errors import UsageError
from conductor_protocol.manifest import KeyLimitSpec, Manifest, RateSpec, WindowSpec
from conductor_supervisor.settings import (
    DECLARED,
    SETTINGS,
    TASK,
    ConcurrencySetting,
    QueueSettings,
    Settings,
    TaskOverride,
    database_url,
    load,
)


def from_toml(folder: Path, text: str) -> Settings:
    """Return the settings that a conductor.toml gives."""
    (folder / "conductor.toml").write_text(text)
    return load(folder, {}, {})


def refusal(folder: Path, text: str) -> str:
    """Return why a conductor.toml is refused."""
    with pytest.raises(UsageError) as caught:
        from_toml(folder, text)
    return str(caught.value)


def test_without_any_source_the_defaults_count(tmp_path: Path) -> None:
    """Nothing said means the defaults."""
    settings = load(tmp_path, {}, {})
    assert settings == Settings(runners=settings.runners)
    assert settings.runners >= 1


def test_options_win_over_variables_over_the_file(tmp_path: Path) -> None:
    """The order is: defaults, file, variables, options."""
    (tmp_path / "conductor.toml").write_text('runners = 2\nshutdown_grace = "2s"\nstop_grace = "2s"\n')
    variables = {"CONDUCTOR_RUNNERS": "3", "CONDUCTOR_SHUTDOWN_GRACE": "3s"}
    settings = load(tmp_path, variables, {"runners": "4", "app": None})
    assert (settings.runners, settings.shutdown_grace, settings.stop_grace) == (4, 3.0, 2.0)
    assert settings.app is None


def test_every_setting_can_be_written_in_the_file_as_its_example_says(tmp_path: Path) -> None:
    """The examples of the reference page are true."""
    lines = [f"{setting.name} = {setting.example}" for setting in SETTINGS if setting.example]
    settings = from_toml(tmp_path, "\n".join(lines))
    assert settings.app == "shop.tasks:app"
    assert settings.max_result == 1024 * 1024
    assert settings.config == str(tmp_path / "conductor.toml")


def test_the_fields_of_settings_are_those_of_the_table() -> None:
    """No setting can be forgotten in one place."""
    assert [setting.name for setting in SETTINGS] == [
        field for field in Settings.__struct_fields__ if field != "config"
    ]


def test_either_variable_names_the_database_and_the_url_wins(tmp_path: Path) -> None:
    """CONDUCTOR_DATABASE_URL goes before CONDUCTOR_DATABASE; an empty variable is not set."""
    both = {"CONDUCTOR_DATABASE": "sqlite:///a.db", "CONDUCTOR_DATABASE_URL": "sqlite:///b.db"}
    assert load(tmp_path, both, {}).database == "sqlite:///b.db"
    assert load(tmp_path, {**both, "CONDUCTOR_DATABASE_URL": ""}, {}).database == "sqlite:///a.db"


def test_pyproject_is_read_where_there_is_no_file_of_our_own(tmp_path: Path) -> None:
    """``[tool.conductor]`` counts, unless there is a conductor.toml."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.conductor]\napp = "a:b"\n[tool.ruff]\nline-length = 100\n'
    )
    assert load(tmp_path, {}, {}).app == "a:b"
    assert from_toml(tmp_path, 'app = "c:d"').app == "c:d"


def test_a_pyproject_without_our_table_is_not_ours(tmp_path: Path) -> None:
    """Other people's pyproject.toml is left alone."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert load(tmp_path, {}, {}).config is None


def test_a_named_file_is_read_instead(tmp_path: Path) -> None:
    """``config`` wins over the folder's file; one that is not there is an error."""
    (tmp_path / "conductor.toml").write_text('app = "a:b"')
    (tmp_path / "other.toml").write_text('app = "c:d"')
    assert load(tmp_path, {}, {}, tmp_path / "other.toml").app == "c:d"
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path, {}, {}, tmp_path / "none.toml")


def test_queues_and_tasks_are_tables(tmp_path: Path) -> None:
    """What operators say about queues and tasks."""
    settings = from_toml(
        tmp_path,
        """
        [queues.media]
        runners = 2
        [tasks.resize]
        concurrency = 3
        timeout = "10m"
        max_attempts = 5
        keep_completed = true
        keep_failed = false
        [tasks.free]
        concurrency = false
        timeout = false
        window = false
        """,
    )
    assert settings.queues == {"media": QueueSettings(2)}
    assert settings.tasks == {
        "resize": TaskOverride(
            concurrency=ConcurrencySetting(3),
            timeout=600.0,
            max_attempts=5,
            keep_completed=0.0,
            keep_failed=None,
        ),
        "free": TaskOverride(concurrency=ConcurrencySetting(), timeout=None, windows=()),
    }


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('["20:00", "06:00"]', [WindowSpec("20:00", "06:00")]),
        ('{start = "20:00", end = "06:00"}', [WindowSpec("20:00", "06:00")]),
        (
            '{start = "09:00", end = "24:00", tz = "Asia/Tokyo", days = ["mon", "fri"], grace = "5m"}',
            [WindowSpec("09:00", "24:00", "Asia/Tokyo", ("mon", "fri"), 300.0)],
        ),
        (
            '[["01:00", "02:00"], {start = "03:00", end = "04:00"}]',
            [WindowSpec("01:00", "02:00"), WindowSpec("03:00", "04:00")],
        ),
        ("[]", []),
    ],
)
def test_windows_may_be_written_in_several_ways(
    tmp_path: Path, written: str, meant: list[WindowSpec]
) -> None:
    """A pair, a table, or a list of either."""
    assert from_toml(tmp_path, f"[tasks.t]\nwindow = {written}").tasks["t"].windows == tuple(meant)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("3", ConcurrencySetting(3)),
        ("{limit = 3}", ConcurrencySetting(3)),
        ('{limit = 2, key = "order.tenant"}', ConcurrencySetting(None, KeyLimitSpec(2, "order.tenant"))),
        ('[50, {limit = 2, key = "tenant"}]', ConcurrencySetting(50, KeyLimitSpec(2, "tenant"))),
        ("false", ConcurrencySetting()),
    ],
)
def test_limits_may_be_written_in_several_ways(
    tmp_path: Path, written: str, meant: ConcurrencySetting
) -> None:
    """A number, a table, or a list of one without a key and one with a key."""
    assert from_toml(tmp_path, f"[tasks.t]\nconcurrency = {written}").tasks["t"].concurrency == meant


@pytest.mark.parametrize(("written", "meant"), [('"100/minute"', RateSpec(100, 60.0)), ("false", None)])
def test_a_rate_is_written_as_in_the_code(tmp_path: Path, written: str, meant: RateSpec | None) -> None:
    """Or switched off."""
    assert from_toml(tmp_path, f"[tasks.t]\nrate = {written}").tasks["t"].rate == meant


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("runner = 4", "conductor.toml: there is no setting 'runner'; did you mean runners"),
        ("runners = 0", "conductor.toml: runners: expected a whole number of 1 or more, got 0"),
        ("runners = 10001", "conductor.toml: runners: expected at most 10,000"),
        ("[queues.q]\nrunners = 10001", "queues.q: runners: expected at most 10,000"),
        (f"slots = {2**31}", "conductor.toml: slots: expected at most 2,147,483,647"),
        (r'app = "a\u0000:b"', r"conductor.toml: app: expected text, got 'a\x00:b'"),
        (r'runtime = "/a\u0000"', r"conductor.toml: runtime: expected a path, got '/a\x00'"),
        (
            'database = ["postgresql://u:S3CRET@h/d"]',
            'expected a URL such as "sqlite:///conductor.db", got a list',
        ),
        ("x = " + "[" * 10_000, "conductor.toml: cannot be read: it is nested too deeply"),
        ("runners = true", "conductor.toml: runners: expected a whole number of 1 or more, got True"),
        ("runners = 2.5", "got 2.5"),
        ("app = 3", "conductor.toml: app: expected text, got 3"),
        ('app = ""', "app: expected text, got ''"),
        ('shutdown_grace = "soon"', "conductor.toml: shutdown_grace: expected a duration such as"),
        ("shutdown_grace = true", "shutdown_grace: expected seconds, "),
        ('lease = "2s"', "conductor.toml: lease: expected 3s or more, got '2s'"),
        ("shutdown_grace = -1", "shutdown_grace: expected a duration from zero"),
        ("heartbeat = 0", "heartbeat: expected more than zero, got 0"),
        ('max_result = "big"', "max_result: expected bytes or text such as"),
        ('max_result = "1GiB"', "max_result: expected at most 8 MiB, got '1GiB'"),
        ("max_result = 1.5", "max_result: expected bytes"),
        ('timezone = "Europe/Berln"', 'got "Europe/Berln"; write for example "Europe/Berlin"'),
        ('log_level = "loud"', "log_level: expected one of debug, info, warning, error, got 'loud'"),
        ("queues = 3", "queues: expected tables, one for each name, got 3"),
        ("[queues]\nmedia = 3", "conductor.toml: queues.media: expected a table, got 3"),
        ('[queues."a b"]\nrunners = 1', "queues: expected a name of letters, digits"),
        (
            "[tasks.t]\nconcurency = 3",
            "conductor.toml: tasks.t: there is no setting 'concurency'; did you mean",
        ),
        ("[tasks.t]\nretry = 3", "tasks.t: retry is set in the code alone: @app.task(retry=...)"),
        ("[tasks.t]\nconcurrency = 0", "tasks.t: concurrency: expected a whole number of 1 or more"),
        ("[tasks.t]\nconcurrency = []", "tasks.t: concurrency: expected at most one limit without a key"),
        ("[tasks.t]\nconcurrency = [1, 2]", "expected at most one limit without a key and one with a key"),
        ('[tasks.t]\nconcurrency = {key = "a"}', 'concurrency: expected {limit = 2, key = "tenant"}, got'),
        (
            '[tasks.t]\nconcurrency = {limit = 2, key = "a..b"}',
            "concurrency: key: expected the name of a field",
        ),
        ("[tasks.t]\nrate = 100", "tasks.t: rate: expected a number of starts in a period, such as"),
        ("[tasks.t]\ntimeout = true", "tasks.t: timeout: "),
        ("[tasks.t]\ntimeout = 0", "tasks.t: timeout: expected more than zero"),
        ("[tasks.t]\nwindow = 3", 'tasks.t: window: expected ["20:00", "06:00"], {start = "20:00"'),
        ('[tasks.t]\nwindow = ["20:00"]', "tasks.t: window: expected"),
        ('[tasks.t]\nwindow = {start = "20:00"}', "tasks.t: window: expected"),
        ('[tasks.t]\nwindow = ["25:00", "06:00"]', "tasks.t: window: "),
        ('[tasks.t]\nwindow = ["06:00", "06:00"]', "tasks.t: window: "),
        ('[tasks.t]\nwindow = {start = "1", end = "2", stop = "3"}', "window: there is no setting 'stop'"),
        (
            '[tasks.t]\nwindow = {start = "01:00", end = "02:00", days = ["Mon"]}',
            "days: expected a list of mon",
        ),
        (
            '[tasks.t]\nwindow = ["06:00", "06:00"]',
            "conductor.toml: tasks.t: window: expected start and end to differ",
        ),
        ('[tasks.t]\nconcurrency = "2"', "got '2'; write it without quotes"),
        ("app = ", "not TOML: "),
        ("app = shop.tasks:app", 'text is written in quotes, as in  app = "shop.tasks:app"'),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, written: str, says: str) -> None:
    """The message names file and key, what was expected, and what came."""
    assert says in refusal(tmp_path, written)


def test_a_refused_variable_or_option_is_named(tmp_path: Path) -> None:
    """The message names the variable or the option."""
    with pytest.raises(
        UsageError, match="CONDUCTOR_RUNNERS: expected a whole number of 1 or more, got 'four'"
    ):
        load(tmp_path, {"CONDUCTOR_RUNNERS": "four"}, {})
    with pytest.raises(UsageError, match="--shutdown-grace: expected a duration"):
        load(tmp_path, {}, {"shutdown_grace": "soon"})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are not TOML."""
    (tmp_path / "conductor.toml").write_bytes(b"app = \xff")
    with pytest.raises(UsageError, match="not TOML"):
        load(tmp_path, {}, {})


def test_a_tool_entry_that_is_no_table_is_refused(tmp_path: Path) -> None:
    """``tool`` and ``tool.conductor`` must be tables."""
    (tmp_path / "pyproject.toml").write_text("tool = 3")
    with pytest.raises(UsageError, match="tool: expected a table, got 3"):
        load(tmp_path, {}, {})
    (tmp_path / "pyproject.toml").write_text("[tool]\nconductor = 3")
    with pytest.raises(UsageError, match=r"pyproject\.toml: expected a table, got 3"):
        load(tmp_path, {}, {})


def test_operators_name_the_database_before_the_app_does() -> None:
    """Operator, then app, then the default."""
    apps = Manifest(app="a:b", tasks=(), database="sqlite:///apps.db")
    assert database_url(Settings(database="sqlite:///mine.db"), apps) == "sqlite:///mine.db"
    assert database_url(Settings(), apps) == "sqlite:///apps.db"
    assert database_url(Settings()) == "sqlite:///conductor.db"


def test_each_option_of_a_task_is_set_in_the_code_alone_or_by_operators_too() -> None:
    """So that a message can tell which."""
    assert sorted(TaskOptions.__annotations__) == sorted([*TASK, *DECLARED])
