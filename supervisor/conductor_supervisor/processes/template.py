"""Our end of a template: the process that has imported the app, and forks fresh runners when we ask."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from conductor_protocol import template as protocol
from conductor_protocol.errors import ProtocolError
from conductor_protocol.template import TEMPLATE_FD, FromTemplate, TheirEnds
from conductor_supervisor.processes.output import Listener
from conductor_supervisor.processes.spawn import Child

log = logging.getLogger(__name__)


class Template:
    """One template, from its start to its end. Owned by the loop thread; nothing here waits."""

    def __init__(
        self,
        number: int,
        *,
        app: str,
        paths: Sequence[str],
        endpoint: str,
        folder: Path,
        listener: Listener,
        heard: Callable[[FromTemplate | None], None],
    ) -> None:
        """Start it. ``heard`` gets each thing that it says; None when it has said what cannot be meant, or
        will say nothing more.

        :raises OSError: if the system does not give a process.
        """
        self._heard = heard
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        try:
            self.child = Child(
                number,
                app=app,
                paths=paths,
                endpoint=endpoint,
                folder=folder,
                listener=listener,
                role="template",
                inherited={TEMPLATE_FD: theirs.fileno()},
            )
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self.closed = False

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def ask(self, ends: TheirEnds) -> bool:
        """Ask for a runner that is born with these; the answer is heard later. False: it takes nothing now.

        :raises OSError: if it is gone.
        """
        try:
            socket.send_fds(self._socket, [protocol.FORK], ends)
        except BlockingIOError:
            return False
        return True

    def read(self) -> bool:
        """Hear one thing that it has said, if there is one; tell whether there was."""
        if self.closed:
            return False
        try:
            data = self._socket.recv(protocol.MOST_BYTES)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        message = _meant(data)
        if message is None:
            self.closed = True
        self._heard(message)
        return message is not None

    def close(self) -> None:
        """Let go of one that has been reaped."""
        self.closed = True
        self._socket.close()
        self.child.close()


def _meant(data: bytes) -> FromTemplate | None:
    try:
        return protocol.unpack(data) if data else None
    except ProtocolError as error:
        log.warning("%s", error)
        return None
