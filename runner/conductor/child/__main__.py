"""``python -m conductor.child``: what the supervisor and its commands start.

The arguments say what for::

    run                          be a runner
    template                     import the app, and fork runners that run one execution each
    describe APP [PATH...]       answer what the app declares
    check APP TASK [PATH...]     answer whether the payload on stdin is what the task expects
    replay TOLD NOTES            run a handler in the foreground; both are descriptors of files
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Do what the supervisor started this process for, and return the exit status."""
    match arguments:
        case ["run"]:
            from conductor.child.process import run

            return run()
        case ["template"]:
            from conductor.child import template

            return template.run()
        case ["describe", app, *paths]:
            from conductor.child.describe import describe

            return describe(app, paths)
        case ["check", app, task, *paths]:
            from conductor.child.describe import check

            return check(app, task, paths)
        case ["replay", told, notes]:
            from conductor.child.replaying import replay

            return replay(int(told), int(notes))
    sys.stderr.write("This is started by conductor-supervisor; write: conductor-supervisor start APP\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
