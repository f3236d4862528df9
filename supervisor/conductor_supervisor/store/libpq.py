"""What libpq makes of a connection URI, and of the environment where the URI is silent: see its fe-connect.c.

The standard library reads URLs otherwise: it knows fragments, and takes "+" for a space.
"""

from __future__ import annotations

import os
import pwd
import re
from typing import Self
from urllib.parse import quote, unquote

from msgspec import Struct

PORT = "5432"

_HOST = r"(?:\[[^\],]+\]|(?!\[)[^:/?,]*)(?::[^/?,]*)?"
_URI = re.compile(
    rf"""
    (?P<login>(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?
    (?P<hosts>{_HOST}(?:,{_HOST})*)
    (?:/(?P<dbname>[^?]*))?
    (?:\?(?P<query>.*))?
    """,
    re.VERBOSE | re.DOTALL,
)
_PORT = re.compile(r"[0-9]*")

_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "service": "PGSERVICE",
}


class ConnectionUri(Struct, frozen=True):
    """The parts of a URI, as they are written."""

    user: str
    password: str | None
    hosts: str
    """With their ports."""
    dbname: str | None
    parameters: tuple[str, ...]
    """``name=value``"""

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what is behind ``postgresql://``.

        More is refused than libpq does: what may be a password that libpq would take for something else.

        :raises ValueError: if it cannot be meant; the message quotes nothing.
        """
        found = _URI.fullmatch(text)
        if found is None:
            raise ValueError("a bracket of an IPv6 address is not closed, or something is behind it")
        if "@" in found["hosts"] + (found["dbname"] or "") or re.search(r"\?.*=", found["login"] or ""):
            raise ValueError('there is an "@" where none is expected')
        if not all(_PORT.fullmatch(port) for _, port in _each(found["hosts"])):
            raise ValueError("a port is not a number")
        parameters = tuple(each for each in (found["query"] or "").split("&") if each)
        if not all("=" in each for each in parameters):
            raise ValueError('a parameter has no "="')
        return cls(found["user"] or "", found["password"], found["hosts"], found["dbname"], parameters)

    def __str__(self) -> str:
        password = "" if self.password is None else f":{self.password}"
        at = "@" if self.user or password else ""
        path = "" if self.dbname is None else f"/{self.dbname}"
        query = f"?{'&'.join(self.parameters)}" if self.parameters else ""
        return f"postgresql://{self.user}{password}{at}{self.hosts}{path}{query}"

    def parameter(self, name: str) -> str | None:
        """Return a parameter's value, the last one that is given; None: it is not there."""
        values = [unquote(each.partition("=")[2]) for each in self.parameters if name_of(each) == name]
        return values[-1] if values else None

    # What libpq uses, in part from the environment

    @property
    def server(self) -> str:
        """Where libpq connects, or tries to: hosts, with ports that are not the usual one."""
        hosts, ports = self._option("host").split(","), self._option("port").split(",")
        if len(ports) < len(hosts):
            ports = ports[:1] * len(hosts)
        return ",".join(map(_host_and_port, hosts, ports))

    @property
    def address(self) -> str:
        """The address that is used in place of the host's, or nothing."""
        return self._option("hostaddr")

    @property
    def service(self) -> str:
        """The service whose file may say what the URI does not, or nothing."""
        name = self._option("service")
        return f"{name} {os.environ.get('PGSERVICEFILE', '')}".strip() if name else ""

    @property
    def database(self) -> str:
        """The database: that of the user's name where none is named."""
        return self._option("dbname") or self._option("user") or _user_of_the_system()

    def _option(self, name: str) -> str:
        """Return what is told of an option; empty: libpq has its default."""
        told = self.parameter(name)
        if told is None:
            told = self._front().get(name) or os.environ.get(_VARIABLES[name])
        return told or ""

    def _front(self) -> dict[str, str]:
        """Return the options that need no name."""
        hosts = _each(self.hosts)
        return {
            "user": unquote(self.user),
            "host": ",".join(unquote(host) for host, _ in hosts),
            "port": ",".join(port for _, port in hosts),
            "dbname": unquote(self.dbname or ""),
        }


def name_of(parameter: str) -> str:
    """Return the name of a parameter."""
    return unquote(parameter.partition("=")[0])


def _each(hosts: str) -> list[tuple[str, str]]:
    """Return each host, without brackets, and its port."""
    return [_split(host) for host in hosts.split(",")]


def _split(host: str) -> tuple[str, str]:
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


def _host_and_port(host: str, port: str) -> str:
    name = f"[{host}]" if ":" in host else quote(host, safe="")
    return name if port in ("", PORT) else f"{name}:{port}"


def _user_of_the_system() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in a container: then libpq does not connect without a user's name
        return str(os.geteuid())
