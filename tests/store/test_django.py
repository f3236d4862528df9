"""Django's connection can be lent, on both databases; it is Django's own way of transactions that counts."""

from __future__ import annotations

import json
import subprocess
import sys

from callers import file, is_sqlite
from psycopg.conninfo import conninfo_to_dict

SHOP = """
import json, sys
import django
from django.conf import settings

url, database = json.loads(sys.stdin.read())
settings.configure(DATABASES={"default": database})
django.setup()

from django.db import connection, transaction
from conductor import Conductor

app = Conductor(url)


def buy(number, fails=False):
    with transaction.atomic():
        app.invoke("send", number, connection=connection)
        assert number not in bought()
        if fails:
            raise RuntimeError


def bought():
    return sorted(view.payload for view in app.list())


def failing(number):
    try:
        buy(number, fails=True)
    except RuntimeError:
        pass


buy(1)
failing(2)
with transaction.atomic():
    app.invoke("send", 3, connection=connection)
    failing(4)
app.invoke("send", 5, connection=connection)  # no transaction: Django commits each statement
print(bought())
app.close()
"""


def test_invocations_follow_atomic(database_url: str) -> None:
    """Blocks, nested blocks that fail, and none at all."""
    done = shop(database_url)
    assert done.stdout.strip() == "[1, 3, 5]", done.stderr


def shop(url: str) -> subprocess.CompletedProcess[str]:
    """Run the program above, in a process that Django may have for itself."""
    told = json.dumps([url, settings(url)])
    return subprocess.run([sys.executable, "-c", SHOP], input=told, capture_output=True, text=True)


def settings(url: str) -> dict[str, object]:
    """Return the entry of ``DATABASES``."""
    if is_sqlite(url):
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": file(url)}
    told = conninfo_to_dict(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": told["dbname"],
        "USER": told["user"],
        "HOST": told["host"],
        "PORT": told["port"],
    }
