"""Newer code in place of what runs: described first, in a child process, so that code which does not import
changes nothing.

A thread waits for the child's answer and does nothing else; the loop starts it, looks for its outcome, and
takes the new code over.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from conductor_protocol.errors import ConductorError
from conductor_protocol.manifest import Manifest
from conductor_supervisor.processes.describe import description

ENDING = 5.0
"""Seconds that a child which is killed has to be gone."""


class Reload:
    """One attempt to read what the code declares now."""

    def __init__(self, app: str, paths: Sequence[str], timeout: float) -> None:
        """
        Start the child. Raises OSError if the system does not give a process.

        :param timeout: seconds that the app may take to import.
        """
        self._inquiry = description(app, paths)
        self.pid = self._inquiry.pid
        self._outcome: Manifest | ConductorError | None = None
        self._thread = threading.Thread(target=self._wait, args=(timeout,), name="reload", daemon=True)
        self._thread.start()

    def outcome(self) -> Manifest | ConductorError | None:
        """Return what the app declares, or why it cannot be read; None: not known yet."""
        return self._outcome

    def close(self) -> None:
        """End the child if it is still alive, and the thread."""
        self._inquiry.end()
        self._thread.join(ENDING)
        self._inquiry.__exit__(None, None, None)

    def _wait(self, timeout: float) -> None:
        try:
            self._outcome = self._inquiry.answer(timeout)
        except ConductorError as error:
            self._outcome = error
