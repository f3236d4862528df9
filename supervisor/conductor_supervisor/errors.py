"""Errors that the supervisor raises on purpose.

ConductorError (protocol)
├── UsageError (protocol)     exit status 2
│   └── PayloadMismatch       a payload is not what its task expects
└── SupervisorError           exit status 1
    ├── AppError              the app cannot be imported, or its declarations cannot be read
    ├── AlreadyRunning        another supervisor holds the lock
    ├── NotRunning            a command needs a running supervisor, and there is none
    ├── NotAnswering          there is one, and it does not answer
    └── StoreError            the database cannot be used
        ├── StoreAway         not just now, that is; also a DatabaseAway (protocol)
        ├── NoDatabase        there is none yet
        ├── ForeignDatabase   it has no tables of Conductor's
        └── OutdatedDatabase  its tables are those of an older version
"""

from __future__ import annotations

from conductor_protocol.errors import ConductorError, DatabaseAway, UsageError


class PayloadMismatch(UsageError):
    """A payload is not what its task expects; the message has the path to the field."""


class SupervisorError(ConductorError):
    """Base class of what keeps a supervisor from its work."""


class AppError(SupervisorError):
    """The app cannot be imported, or its declarations cannot be read."""


class AlreadyRunning(SupervisorError):
    """Another supervisor holds the lock; the message names its process."""


class NotRunning(SupervisorError):
    """A command needs a running supervisor, and there is none."""


class NotAnswering(SupervisorError):
    """A supervisor holds the lock and does not answer; the message names its process."""

    def __init__(self, pid: int | None, sentence: str) -> None:
        """:param pid: None if the lock does not tell."""
        super().__init__(sentence)
        self.pid = pid


class StoreError(SupervisorError):
    """The database cannot be used."""


class StoreAway(StoreError, DatabaseAway):
    """The database cannot be used just now; a later try may go well."""


class NoDatabase(StoreError):
    """There is no database yet, and whoever only looks makes none."""


class ForeignDatabase(StoreError):
    """The database has no tables of Conductor's: it may be another application's."""


class OutdatedDatabase(StoreError):
    """The database's tables are those of an older version, and whoever only looks does not change them."""
