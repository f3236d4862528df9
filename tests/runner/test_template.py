"""The two forks of a template, when it dies between them."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="templates are forked on Linux")

WITHOUT_A_TEMPLATE = """
import os
from conductor.child import template

read, write = os.pipe()
os.close(read)
between = os.fork()
if between == 0:
    itself = os.getpid()
    try:
        template._fork_again(write)
    finally:
        if os.getpid() == itself:
            print("the process in between went on", flush=True)
        os._exit(0)
os.waitpid(between, 0)
"""


def test_the_process_in_between_goes_nowhere_when_its_template_has_died() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_TEMPLATE], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == ""
