"""What a handler leaves changed in its process is put back, or its runner is worn and says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_supervisor import FakeSupervisor

from conductor_protocol import messages as m

APP = f"{Path(__file__).with_name('litter_app.py')}:app"

MESS = {
    "working directory": "import os; os.chdir('/')",
    "umask": "import os; os.umask(0o123)",
    "a new variable": "import os; os.environ['LITTER'] = '1'",
    "a changed variable": "import os; os.environ['PATH'] = '/nowhere'",
    "a missing variable": "import os; del os.environ['PATH']",
    "another environ": "import os; os.environ = {}",
    "time zone": "import os, time; os.environ['TZ'] = 'XYZ-9'; time.tzset()",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C')",
    "an ignored signal": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "Ctrl-C": "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)",
    "an alarm": "import signal; signal.alarm(3600); signal.signal(signal.SIGALRM, print)",
    "a repeating timer": "import signal; signal.setitimer(signal.ITIMER_REAL, 3600, 60)",
    "a profiling timer": "import signal, time; signal.setitimer(signal.ITIMER_PROF, 60); time.sleep(0.02)",
    "a virtual timer": "import signal, time; signal.setitimer(signal.ITIMER_VIRTUAL, 3600); time.sleep(0.02)",
    "stdout": "import io, sys; sys.stdout = io.StringIO()",
    "no streams": "import sys; del sys.stdin, sys.stdout, sys.stderr",
}

WORN = {
    "os.close(1)": "its stdout was closed by task do",
    "sys.stdout.close()": "its stdout was closed by task do",
    "os.close(2)": "its stderr was closed by task do",
    "sys.stderr.detach()": "its stderr was closed by task do",
    "os.dup2(os.open('/dev/null', os.O_WRONLY), 1); time.sleep(0.02)": "its stdout was pointed elsewhere",
    "[os.dup(0) for _ in range(200)]; time.sleep(0.02)": "descriptors are left open after task do",
    "time.sleep(0.02)\nwhile True:\n  try: os.dup(0)\n  except OSError: break": "its descriptors are used up",
    "shutil.rmtree(os.getcwd()); time.sleep(0.02)": "its working directory is gone after task do",
}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[FakeSupervisor]:
    """A runner that does as it is told, let in."""
    folder = tmp_path / "work"
    folder.mkdir()
    with FakeSupervisor(folder, APP) as supervisor:
        yield supervisor.welcome()


def look(supervisor: FakeSupervisor) -> object:
    supervisor.assign("look")
    return json.loads(supervisor.hear(m.Finished).result)


def do(supervisor: FakeSupervisor, code: str, task: str = "do") -> object:
    supervisor.assign(task, json.dumps(code).encode())
    return json.loads(supervisor.hear(m.Finished).result)


@pytest.mark.parametrize("what", MESS)
def test_what_a_handler_changes_is_put_back_before_the_next(supervisor: FakeSupervisor, what: str) -> None:
    """As it was before the first handler, for Python and for C alike."""
    before = look(supervisor)
    do(supervisor, MESS[what])
    assert look(supervisor) == before


def test_what_a_handler_changes_is_put_back_although_it_raises(supervisor: FakeSupervisor) -> None:
    """Also after a failure."""
    before = look(supervisor)
    supervisor.assign("do", json.dumps("import os; os.chdir('/'); raise ValueError").encode())
    supervisor.hear(m.Failed)
    assert look(supervisor) == before


def test_a_working_directory_that_was_renamed_is_still_ours(supervisor: FakeSupervisor) -> None:
    """It is held itself, not by its path."""
    do(supervisor, "import os; os.rename(os.getcwd(), os.getcwd() + '-renamed'); os.chdir('/')")
    assert do(supervisor, "import os; result = os.getcwd()") == f"{supervisor.folder}-renamed"


@pytest.mark.parametrize("code", WORN)
def test_what_cannot_be_put_back_makes_the_runner_worn(supervisor: FakeSupervisor, code: str) -> None:
    """It says so after the report, begins nothing more, and ends when it is told to."""
    mess = supervisor.assignment("do", json.dumps(f"import os, shutil, sys, time\n{code}").encode())
    supervisor.say(m.Assign([mess, supervisor.assignment("look")]))
    assert supervisor.hear(m.Finished).execution == mess.execution
    assert WORN[code] in supervisor.hear(m.Worn).reason
    assert supervisor.reading().phase == "idle"
    supervisor.say(m.Assign([supervisor.assignment("look")]))
    supervisor.say(m.Recall(), channel="control")
    assert supervisor.hear(m.Returned, "control").executions == []
    assert supervisor.stop() in (0, 120)  # 120: Python cannot flush a stdout that is closed
    assert not supervisor.socket.poll(0)


def test_a_few_descriptors_left_open_are_no_wear(supervisor: FakeSupervisor) -> None:
    """Connections and caches live from one execution to the next."""
    do(supervisor, "import os, time; [os.dup(0) for _ in range(50)]; time.sleep(0.02)")
    look(supervisor)
    assert supervisor.stop() == 0


# Enough


def test_a_runner_has_done_enough_after_so_many_executions(tmp_path: Path) -> None:
    """Exactly so many: it does not begin the next."""
    with FakeSupervisor(tmp_path, APP) as supervisor:
        supervisor.welcome(recycle_executions=3)
        supervisor.say(m.Assign([supervisor.assignment("look") for _ in range(5)]))
        for _ in range(3):
            supervisor.hear(m.Finished)
        assert supervisor.hear(m.Worn).reason == "it has run 3 executions (recycle_executions)"
        assert supervisor.stop() == 0


def test_a_runner_has_done_enough_when_an_execution_leaves_much_memory(tmp_path: Path) -> None:
    """What it has freed again does not count."""
    with FakeSupervisor(tmp_path, APP) as supervisor:
        supervisor.welcome(recycle_memory=200 * 1024**2)
        do(supervisor, "b'x' * 300 * 1024**2")
        do(supervisor, "app.leak = b'x' * 300 * 1024**2")
        reason = supervisor.hear(m.Worn).reason
        assert "MiB resident after task do, more than 200 MiB (recycle_memory)" in reason
        assert supervisor.stop() == 0
