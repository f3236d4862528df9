"""What user code leaves behind in its runner, or does with it, stays without consequence for anybody else."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_supervisor import FakeSupervisor

from conductor_protocol import messages as m

APP = f"{Path(__file__).with_name('litter_app.py')}"

HELD_UP = {
    "a thread": ("import threading; threading.Thread(target=threading.Event().wait).start()", "Thread-"),
    "an exit handler": (
        "import atexit, threading\ndef at_exit(): threading.Event().wait()\natexit.register(at_exit)",
        "in at_exit",
    ),
    "an executor": (
        "import concurrent.futures as c, time\napp.c = c.ThreadPoolExecutor(); app.c.submit(time.sleep, 60)",
        "ThreadPoolExecutor-",
    ),
}


# Endings


def do(supervisor: FakeSupervisor, code: str, task: str = "do") -> None:
    supervisor.assign(task, json.dumps(code).encode())
    supervisor.hear(m.Finished)


@pytest.mark.parametrize("what", HELD_UP)
def test_what_a_handler_leaves_holds_up_the_end_for_a_while_only(tmp_path: Path, what: str) -> None:
    """Then the runner ends without it, and says without what."""
    code, named = HELD_UP[what]
    with FakeSupervisor(tmp_path, f"{APP}:app") as supervisor:
        supervisor.welcome(end_grace=0.3)
        do(supervisor, code)
        assert supervisor.stop() == 0
        told = supervisor.stderr().decode()
        assert "had nothing in hand and has not ended within 300 ms; it ends without waiting for" in told
        assert named in told


def test_a_thread_of_asyncio_holds_up_the_end_for_a_while_only(tmp_path: Path) -> None:
    """The event loop waits for its executor's threads when it closes."""
    with FakeSupervisor(tmp_path, f"{APP}:app") as supervisor:
        supervisor.welcome(end_grace=0.3)
        code = "import asyncio, threading\n"
        code += "asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)"
        do(supervisor, code, "do-async")
        supervisor.say(m.Stop())
        assert supervisor.wait() == 0
        assert "asyncio_0" in supervisor.stderr().decode()


@pytest.mark.parametrize("lifespan", ["hanging", "hanging_async"])
def test_a_teardown_that_hangs_is_cut_off(tmp_path: Path, lifespan: str) -> None:
    """It has begun, so what comes before the hang is done; the line on stderr says where it was."""
    with FakeSupervisor(tmp_path, f"{APP}:{lifespan}") as supervisor:
        supervisor.welcome(end_grace=0.3)
        supervisor.say(m.Stop())
        assert supervisor.wait() == 0
        assert (tmp_path / "touched").read_text() == "tearing down\n"
        assert "MainThread in hangs" in supervisor.stderr().decode()


def test_an_end_that_nothing_holds_up_does_not_wait(tmp_path: Path) -> None:
    """The grace is no delay."""
    with FakeSupervisor(tmp_path, f"{APP}:app") as supervisor:
        supervisor.welcome(end_grace=3600)
        assert supervisor.stop() == 0


# Forks


CALLS = {
    "step": "ctx.step('one', int)",
    "checkpoint": "ctx.checkpoint()",
    "progress": "ctx.progress(1)",
    "should_stop": "ctx.should_stop",
    "invoke": "app.invoke('look')",
    "get": "app.get('x')",
}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[FakeSupervisor]:
    """A runner that does as it is told, let in."""
    with FakeSupervisor(tmp_path, f"{APP}:app") as supervisor:
        yield supervisor.welcome()


FORK = """
import os
if os.fork() == 0:
    try:
        {call}
    except BaseException as error:
        touch(type(error).__name__ + ": " + str(error))
    os._exit(0)
result = os.waitstatus_to_exitcode(os.wait()[1])
"""


@pytest.mark.parametrize("task", ["do", "do-async"])
@pytest.mark.parametrize("call", CALLS)
def test_a_forked_process_cannot_speak_for_the_handler(
    supervisor: FakeSupervisor, task: str, call: str
) -> None:
    """Each call raises at once, says what to do instead, and sends nothing; the handler goes on."""
    code = CALLS[call]
    if task == "do-async":
        code = {"step": f"await {code}", "checkpoint": f"await {code}"}.get(call, code)
    body = FORK.format(call=code)
    if task == "do-async":
        body += "\nreturn result"
    assignment = supervisor.assign(task, json.dumps(body).encode())
    finished = supervisor.hear(m.Finished)
    assert (finished.execution, finished.result) == (assignment.execution, b"0")
    (told,) = (supervisor.folder / "touched").read_text().splitlines()
    assert told.startswith("UsageError: this is a process that the handler forked")
    assert "let the handler make the call" in told


@pytest.mark.parametrize("task", ["do", "do-async"])
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("pass", 0),
        ("raise ValueError('in the child')", 1),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit", 0),
    ],
)
def test_a_forked_process_that_leaves_the_handler_ends(
    supervisor: FakeSupervisor, task: str, end: str, status: int
) -> None:
    """It does not go on as the runner: there is one report, and one voice afterwards."""
    body = (
        f"import os\npid = os.fork()\nif pid == 0:\n    {end}\n"
        "else:\n    result = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    )
    if task == "do-async":
        body = body.replace("pass", "return").replace("result =", "return")
    for _ in range(2):
        assignment = supervisor.assign(task, json.dumps(body).encode())
        finished = supervisor.hear(m.Finished)
        assert (finished.execution, json.loads(finished.result)) == (assignment.execution, status)
    supervisor.say(m.Recall(), channel="control")
    supervisor.hear(m.Returned, "control")
    assert supervisor.stop() == 0
    assert supervisor.stderr().decode().count("ValueError: in the child\n") == (2 if status == 1 else 0)


def test_a_forked_process_does_not_touch_the_flight_recorder(supervisor: FakeSupervisor) -> None:
    """The handler goes on in its step, whatever the child's copy of the code does."""
    code = (
        "import os\n"
        "def forks():\n"
        "    pid = os.fork()\n"
        "    if pid: os.waitpid(pid, 0); os.kill(os.getpid(), 9)\n"
        "ctx.step('parent', forks)\n"
    )
    supervisor.assign("do", json.dumps(code).encode())
    supervisor.answer_ask()
    assert supervisor.wait() == -signal.SIGKILL
    assert (supervisor.reading().phase, supervisor.reading().step) == ("step", "parent")
    assert b"the handler forked" in supervisor.stderr()


def test_multiprocessing_may_fork_and_its_processes_may_not_use_ctx(supervisor: FakeSupervisor) -> None:
    """They may do anything else."""
    code = (
        "import multiprocessing\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: result = pool.map(abs, [-1, -2])\n"
        "one = multiprocessing.get_context('fork').Process(target=ctx.checkpoint)\n"
        "one.start(); one.join()\n"
        "result.append(one.exitcode)\n"
    )
    supervisor.assign("do", json.dumps(code).encode())
    assert json.loads(supervisor.hear(m.Finished).result) == [1, 2, 1]


def test_a_process_forked_in_the_lifespan_does_not_become_a_second_runner(tmp_path: Path) -> None:
    """It ends where the runner opens its sockets."""
    with FakeSupervisor(tmp_path, f"{APP}:forking") as supervisor:
        supervisor.welcome()
        supervisor.assign("do", json.dumps("result = ctx.state").encode())
        assert json.loads(supervisor.hear(m.Finished).result) == "parent"
        assert supervisor.stop() == 0
        assert (tmp_path / "touched").read_text() == "torn down\n"
        assert not supervisor.socket.poll(0)


# The context is nobody else's


@pytest.mark.parametrize("how", ["copy.copy(ctx)", "copy.deepcopy([ctx])", "pickle.dumps({'ctx': ctx})"])
@pytest.mark.parametrize("task", ["do", "do-async"])
def test_the_context_cannot_be_copied(supervisor: FakeSupervisor, how: str, task: str) -> None:
    """Nor sent anywhere; the error says what to pass instead."""
    supervisor.assign(task, json.dumps(f"import copy, pickle\n{how}").encode())
    failure = supervisor.hear(m.Failed).failure
    assert failure.type == "TypeError"
    assert "ctx cannot be copied or pickled" in failure.message
    assert "ctx.execution_id" in failure.message


def test_steps_run_in_several_threads_of_an_async_handler(supervisor: FakeSupervisor) -> None:
    """Each thread with an event loop of its own; the handler's loop carries their questions."""
    code = (
        "import asyncio\n"
        "def run(n): return asyncio.run(ctx.step(f'step-{n}', abs, -n))\n"
        "return sum(await asyncio.gather(*(asyncio.to_thread(run, n) for n in range(12))))\n"
    )
    supervisor.assign("do-async", json.dumps(code).encode())
    while not isinstance(message := supervisor.next_message(), m.Finished):
        if isinstance(message, m.Ask):
            supervisor.say(m.Verdict(message.seq, "go on"))
        else:
            assert isinstance(message, m.StepDone)
            supervisor.say(m.StepAck(message.seq, "go on"))
    assert json.loads(message.result) == sum(range(12))


def test_a_step_cannot_begin_when_its_handler_has_ended(supervisor: FakeSupervisor) -> None:
    """Its function is not called, although the last verdict was just heard."""
    code = (
        "import threading\n"
        "def late():\n"
        "    gone.wait()\n"
        "    try: ctx.step('two', touch, 'ran')\n"
        "    except Exception as error: touch(type(error).__name__)\n"
        "gone = app.gone = threading.Event()\n"
        "app.late = threading.Thread(target=late, daemon=True); app.late.start()\n"
        "ctx.step('one', int)\n"
    )
    supervisor.assign("do", json.dumps(code).encode())
    supervisor.allow_step()
    supervisor.hear(m.Finished)
    supervisor.assign("do", json.dumps("app.gone.set(); app.late.join()").encode())
    supervisor.hear(m.Finished)
    assert (supervisor.folder / "touched").read_text() == "UsageError\n"


# Whatever leaves a handler


@pytest.mark.parametrize("task", ["do", "do-async"])
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("import asyncio; raise asyncio.CancelledError", "asyncio.exceptions.CancelledError"),
        ("def deep(): deep()\ndeep()", "RecursionError"),
    ],
)
def test_whatever_leaves_a_handler_is_its_failure(
    supervisor: FakeSupervisor, task: str, how: str, kind: str
) -> None:
    """The same process goes on."""
    supervisor.assign(task, json.dumps(how).encode())
    failed = supervisor.hear(m.Failed)
    assert (failed.failure.type, failed.retryable) == (kind, True)
    pid = "import os\nreturn os.getpid()" if task == "do-async" else "import os\nresult = os.getpid()"
    supervisor.assign(task, json.dumps(pid).encode())
    assert json.loads(supervisor.hear(m.Finished).result) == supervisor.process.pid
