"""A supervisor made of one socket and no rules: the test says what it answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import zmq

from conductor_protocol import messages as m
from conductor_protocol.birth import BIRTH_FD, Birth, write_birth
from conductor_protocol.codec import pack, unpack_from_runner
from conductor_protocol.manifest import Isolation
from conductor_protocol.recorder import Reading, Recorder, RecorderReader
from conductor_protocol.units import Instant

PATIENCE = 20.0
"""Seconds after which a test gives up waiting for a runner."""

SECRET = b"a secret"

M = TypeVar("M", bound=m.FromRunner)


class FakeSupervisor:
    """Starts one real runner and talks to it, message by message."""

    def __init__(
        self,
        folder: Path,
        app: str,
        *,
        max_result: int = 1024 * 1024,
        environment: dict[str, str] | None = None,
        isolation: Isolation = "runner",
        at_once: int = 1,
    ) -> None:
        places = at_once if isolation == "shared" else 0
        self.folder = folder
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(f"ipc://{folder}/s")
        recorder = folder / "recorder"
        recorder.unlink(missing_ok=True)
        Recorder.create(recorder, places)
        self.recorder = RecorderReader(recorder, places)
        self._max_result = max_result
        self._identities: dict[m.Channel, bytes] = {}
        self._channels: dict[bytes, m.Channel] = {}
        self._inbox: dict[m.Channel, list[m.FromRunner]] = {"data": [], "control": []}
        self._claim = 0
        birth_read, self.lifeline = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "conductor.child", "run"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(birth_read,),
            env={**os.environ, **(environment or {}), BIRTH_FD: str(birth_read)},
            process_group=0,
            cwd=folder,
        )
        os.close(birth_read)
        write_birth(
            self.lifeline,
            Birth(
                runner=1,
                secret=SECRET,
                mark=f"{folder}:1",
                endpoint=f"ipc://{folder}/s",
                recorder=str(recorder),
                app=app,
                paths=[str(folder)],
                isolation=isolation,
                at_once=at_once,
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the runner, and show what it printed: pytest keeps it for the tests that fail."""
        self.process.kill()
        self.close_lifeline()
        for name, stream in (("stdout", self.process.stdout), ("stderr", self.process.stderr)):
            assert stream is not None
            with stream:
                sys.stderr.write(f"--- the runner's {name}\n{stream.read().decode()}\n")
        self.process.wait()
        self.recorder.close()
        self.socket.close()
        self._context.term()

    def works(self) -> bool:
        """Tell whether the runner has nothing else on its mind than what it is given now."""
        if self.process.poll() is not None or any(self._inbox["data"]):
            return False
        self._inbox["control"].clear()
        assignment = self.assign("echo")
        message = self.next_message()
        return isinstance(message, m.Finished) and message.execution == assignment.execution

    def close_lifeline(self) -> None:
        """Do to the runner what the supervisor's death does."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    # Hearing

    def hear(self, kind: type[M], channel: m.Channel = "data") -> M:
        """Return the next message of this channel, which must be of this kind. Heartbeats are passed over."""
        while True:
            waiting = self._inbox[channel]
            while waiting:
                message = waiting.pop(0)
                if isinstance(message, m.Heartbeat) and kind is not m.Heartbeat:
                    continue
                assert isinstance(message, kind), f"expected {kind.__name__}, got {message}"
                return message
            self.receive()

    def next_message(self) -> m.FromRunner:
        """Return the next message of the data channel, whatever it is."""
        while not self._inbox["data"]:
            self.receive()
        return self._inbox["data"].pop(0)

    def says_anything(self) -> bool:
        """Tell whether anything has come on the data channel that was not heard yet."""
        while self.socket.poll(0):
            self.receive()
        return bool(self._inbox["data"])

    def stderr(self) -> bytes:
        """Return what a runner that has ended printed there."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def wait_for(self, fact: Callable[[], object]) -> None:
        """Wait until something is true that no message tells."""
        deadline = time.monotonic() + PATIENCE
        while not fact():
            assert time.monotonic() < deadline, "it does not come true"
            time.sleep(0.002)

    @property
    def has_said_hello(self) -> bool:
        """Whether the runner waits to be let in on both channels."""
        return len(self._identities) == 2

    def receive(self) -> None:
        """Take in one parcel."""
        assert self.socket.poll(round(PATIENCE * 1000)), "the runner says nothing"
        identity, frame = self.socket.recv_multipart()
        for message in unpack_from_runner(frame):
            if isinstance(message, m.Hello):
                self._identities[message.channel] = identity
                self._channels[identity] = message.channel
            self._inbox[self._channels[identity]].append(message)

    # Speaking

    def say(self, *parcel: m.ToRunner, channel: m.Channel = "data") -> None:
        """Send messages as one parcel."""
        self.socket.send_multipart([self._identities[channel], pack(parcel)])

    def welcome(self, **terms: float | None) -> FakeSupervisor:
        """Let the runner in, on both channels; ``terms`` are further fields of the welcome."""
        for channel in ("control", "data"):
            hello = self.hear(m.Hello, channel)
            assert (hello.secret, hello.pid, hello.version) == (SECRET, self.process.pid, m.PROTOCOL_VERSION)
            self.say(m.Welcome(0.05, self._max_result, **terms), channel=channel)  # type: ignore[arg-type]
        return self

    def assignment(
        self,
        task: str,
        payload: bytes = b"null",
        *,
        steps: Iterable[tuple[str, bytes]] = (),
        recorded: int | None = None,
        attempt: int = 1,
        event: str = "conductor.invoke",
        scheduled_for: Instant | None = None,
        short: bool = False,
    ) -> m.Assignment:
        """Make an execution with an id and claim of its own."""
        self._claim += 1
        page = [m.RecordedStep(name, result) for name, result in steps]
        return m.Assignment(
            f"{self._claim:036}",
            self._claim,
            task,
            attempt,
            event,
            scheduled_for,
            payload,
            page,
            len(page) if recorded is None else recorded,
            short=short,
        )

    def assign(self, task: str, payload: bytes = b"null", **details: object) -> m.Assignment:
        """Hand the runner one execution."""
        assignment = self.assignment(task, payload, **details)  # type: ignore[arg-type]
        self.say(m.Assign([assignment]))
        return assignment

    def answer_ask(self, word: m.Word = "go on") -> m.Ask:
        """Hear a question and answer it."""
        ask = self.hear(m.Ask)
        self.say(m.Verdict(ask.seq, word))
        return ask

    def acknowledge(self, word: m.Word = "go on") -> m.StepDone:
        """Hear of a step's result and acknowledge it."""
        done = self.hear(m.StepDone)
        self.say(m.StepAck(done.seq, word))
        return done

    def allow_step(self, word: m.Word = "go on") -> m.StepDone:
        """Let a step begin, and acknowledge its result.

        A step that follows another at once need not ask, and a slow machine makes it ask all the same.
        """
        done = self.next_message()
        if isinstance(done, m.Ask):
            self.say(m.Verdict(done.seq, "go on"))
            done = self.next_message()
        assert isinstance(done, m.StepDone), f"expected StepDone, got {done}"
        self.say(m.StepAck(done.seq, word))
        return done

    # The end

    def stop(self) -> int:
        """Tell the runner to stop, hear its goodbye, and return its exit status."""
        self.say(m.Stop())
        self.hear(m.Goodbye, "control")
        return self.process.wait(PATIENCE)

    def wait(self) -> int:
        """Wait until the process has ended, and return its exit status."""
        return self.process.wait(PATIENCE)

    def reading(self) -> Reading:
        """Return what the flight recorder says."""
        reading = self.recorder.read()
        assert reading is not None
        return reading

    def reports(self) -> list[m.Report]:
        """Return what the recorder's outbox holds."""
        return self.recorder.outbox()
