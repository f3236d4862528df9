"""``python -m conductor_supervisor`` is ``conductor-supervisor``."""

from conductor_supervisor.cli import main

main()
