"""A network namespace: another machine, as far as the network goes, with a cable to ours that can be pulled.

It needs Linux, the right to make one, and ``ip``; a test that cannot have one is skipped.
"""

from __future__ import annotations

import shutil
import subprocess
from types import TracebackType
from typing import Self

import pytest

SUBNETS = range(1, 250)


class Namespace:
    """One end of the cable is there, the other here."""

    def __init__(self) -> None:
        if shutil.which("ip") is None:
            pytest.skip("there is no ip, which makes network namespaces (package iproute2)")
        number = next((n for n in SUBNETS if _ip("netns", "add", f"conductor-{n}") == 0), None)
        if number is None:
            pytest.skip("this user may not make network namespaces")
        self._name = f"conductor-{number}"
        self._here, there = f"conductor{number}a", f"conductor{number}b"
        self.host = f"10.213.{number}.1"
        """Our address, as it is seen from there."""
        self.network = f"10.213.{number}.0/30"
        try:
            _must("link", "add", self._here, "type", "veth", "peer", "name", there, "netns", self._name)
            _must("addr", "add", f"{self.host}/30", "dev", self._here)
            _must("link", "set", self._here, "up")
            _must("-n", self._name, "addr", "add", f"10.213.{number}.2/30", "dev", there)
            _must("-n", self._name, "link", "set", there, "up")
            _must("-n", self._name, "link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    @property
    def within(self) -> list[str]:
        """What is put before a command that is to run there."""
        return ["ip", "netns", "exec", self._name]

    def pull(self) -> None:
        """Nothing passes any more, and nobody is told."""
        _must("link", "set", self._here, "down")

    def plug_in(self) -> None:
        """All passes again."""
        _must("link", "set", self._here, "up")

    def remove(self) -> None:
        """Remove both ends. What still runs there has no network then."""
        _ip("link", "del", self._here)
        _ip("netns", "del", self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _ip(*arguments: str) -> int:
    return subprocess.run(["ip", *arguments], capture_output=True).returncode


def _must(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
