"""What a process that died said last, in one line."""

from __future__ import annotations

import pytest

from conductor_supervisor.rules.lastwords import last_words

RAISED = """a line before
Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 9, in pool
    connect(
    ~~~~~~~^
  File "/srv/shop/net.py", line 3, in connect
    raise RuntimeError("no pool")
RuntimeError: no pool
"""

SYNTAX = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 1, in <module>
    import broken
  File "/srv/shop/broken.py", line 7
    def f(:
          ^
SyntaxError: invalid syntax
"""

CRASH = """Fatal Python error: Segmentation fault

Current thread 0x01 (most recent call first):
  File "/srv/shop/tasks.py", line 4 in f
"""


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (RAISED, "RuntimeError: no pool (/srv/shop/net.py:3)"),
        (RAISED + "goodbye\n", "RuntimeError: no pool (/srv/shop/net.py:3)"),
        (SYNTAX, "SyntaxError: invalid syntax (/srv/shop/broken.py:7)"),
        ("no licence\nfound\n", "no licence / found"),
        (CRASH.replace("\n\n", "\n"), " / ".join(line.strip() for line in CRASH.split("\n") if line)),
        ("", ""),
    ],
    ids=["an exception", "and lines after it", "a syntax error", "lines", "a crash", "nothing"],
)
def test_an_exception_is_told_by_its_last_line_with_its_place(printed: str, said: str) -> None:
    """What is no exception is told by its last lines."""
    assert last_words(printed) == said
