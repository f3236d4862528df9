"""The root of every error that Conductor raises on purpose.

ConductorError
├── UsageError          what the user wrote cannot be meant; the message says what to write (exit status 2)
├── ProtocolError       a peer sent bytes or a message that the conversation does not allow
├── DatabaseAway        the database cannot be used just now; a later try may go well
└── (each package adds its own leaves in its own ``errors`` module)
"""


class ConductorError(Exception):
    """Base class: ``except ConductorError`` catches every error that Conductor raises on purpose."""


class UsageError(ConductorError):
    """What the user wrote cannot be meant. The message says what was expected, what came, what to write."""


class ProtocolError(ConductorError):
    """A peer sent something that the conversation does not allow."""


class DatabaseAway(ConductorError):
    """The database cannot be used just now: it restarts, is full, or out of reach. Later, it may go well."""
