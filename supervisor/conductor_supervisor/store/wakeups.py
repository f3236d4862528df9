"""Hearing at once that others have changed a PostgreSQL database, by LISTEN and NOTIFY.

Behind it stands polling, which is all there is where notifications do not arrive: a pooler in transaction
mode takes a LISTEN and forgets it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from uuid_utils import uuid7

if TYPE_CHECKING:
    import psycopg

    from conductor_supervisor.store.postgresql import PostgresDatabase

POLL_HEARING = 1.0
"""Seconds between looks where notifications arrive: some may be lost with a connection."""

POLL_DEAF = 0.2
"""Seconds between looks where none arrive."""

TRIAL = 3.0
"""Seconds that the notification to ourselves may take that shows whether any arrive."""

AGAIN = 1.0
"""Seconds until the next try to listen after a connection was lost."""

log = logging.getLogger(__name__)


def channel(schema: str) -> str:
    """Return the channel on which those who have made executions in a schema tell of it."""
    return f"conductor_{schema}"


class Listener:
    """A thread that listens on a connection of its own."""

    def __init__(self, database: PostgresDatabase, me: str, wake: Callable[[], None]) -> None:
        """:param wake: called by the thread when somebody else has changed the database."""
        self._database = database
        self._me = me
        self._wake = wake
        self._hears = False
        self._has_heard = False
        """Notifications are known to arrive, as long as there is a connection."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def poll_interval(self) -> float:
        """Return after how many seconds whoever listens should look by itself."""
        return POLL_HEARING if self._hears else POLL_DEAF

    def close(self) -> None:
        """End the thread; it notices within a second."""
        self._closed.set()
        self._thread.join(5)

    # Below: the thread.

    def _run(self) -> None:
        import psycopg

        while not self._closed.is_set():
            try:
                with self._database.listening() as driver:
                    if not self._has_heard and not self._notifications_arrive(driver):
                        self._say_deaf()
                        return
                    self._hears = self._has_heard = True
                    self._wake()  # for what came while nobody listened
                    self._hear(driver)
            except (psycopg.Error, DBAPIError) as error:
                log.debug("the database is polled until it can be listened to again: %s", error)
            self._hears = False
            self._closed.wait(AGAIN)

    def _notifications_arrive(self, driver: psycopg.Connection) -> bool:
        token = str(uuid7())
        self._database.notify(token)
        deadline = time.monotonic() + TRIAL
        while not self._closed.is_set() and (left := deadline - time.monotonic()) > 0:
            for heard in driver.notifies(timeout=left, stop_after=1):
                if heard.payload == token:
                    return True
        return self._closed.is_set()

    def _hear(self, driver: psycopg.Connection) -> None:
        while not self._closed.is_set():
            for heard in driver.notifies(timeout=1.0, stop_after=1):
                if heard.payload != self._me:
                    self._wake()

    def _say_deaf(self) -> None:
        log.warning(
            "notifications of the database do not arrive, as behind a pooler in transaction mode: it is "
            "polled, every %d ms. Give the supervisor a connection past the pooler to have it woken at once",
            round(POLL_DEAF * 1000),
        )
