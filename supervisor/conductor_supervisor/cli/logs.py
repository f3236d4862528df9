"""What ``start`` writes to stderr: time, level, message."""

from __future__ import annotations

import logging
import sys

from conductor_supervisor.readers import LogLevel


def set_up(level: LogLevel) -> None:
    """Send the log lines of this process to stderr.

    Other libraries speak from ``warning`` upwards only: their steps are no news to an operator.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("conductor_supervisor").setLevel(level.upper())
