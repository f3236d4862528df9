"""A real supervisor, and an application that changes its tables in the same PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from harness import Project

pytestmark = pytest.mark.together

GREET = """
@app.task(on=DatabaseChange("public.contact", {operations}, columns=["id", "email"], when="{when}"))
def greet(event, ctx):
    row = event.payload["new"] or event.payload["old"]
    note(f"{{event.name}} {{row['email']}}")
    return row
"""


@pytest.fixture
def app(project: Project, postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The application's own connection; the project uses its database."""
    project.use_database(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE contact (id serial PRIMARY KEY, email text, active bool)")
        connection.commit()
        yield connection


def declare(project: Project, operations: str, when: str = "NEW.active") -> None:
    """Write the task."""
    project.tasks(GREET.format(operations=operations, when=when))


def insert(app: psycopg.Connection[Any], email: str, *, commit: bool = True) -> None:
    """Insert an active contact."""
    app.execute("INSERT INTO contact (email, active) VALUES (%s, true)", [email])
    (app.commit if commit else app.rollback)()


def test_a_committed_change_runs_the_task_once(project: Project, app: psycopg.Connection[Any]) -> None:
    """Also one that was made while no supervisor ran; one that was rolled back never happened."""
    declare(project, '"insert"')
    supervisor = project.start()
    project.until(lambda: "started" in supervisor.output(), "the triggers are there")
    insert(app, "ada@x")
    insert(app, "nobody@x", commit=False)
    project.until_noted("public.contact.insert ada@x")
    assert supervisor.stop() == 0
    insert(app, "eva@x")
    project.drain()
    assert project.diary() == ["public.contact.insert ada@x", "public.contact.insert eva@x"]
    assert {view.state for view in project.views(task="greet")} == {"completed"}


def test_a_reload_takes_other_triggers_over(project: Project, app: psycopg.Connection[Any]) -> None:
    """What is no longer declared makes no executions; what cannot be made leaves the old ones in place."""
    declare(project, '["insert", "delete"]', when="true")
    supervisor = project.start()
    project.until(lambda: "started" in supervisor.output(), "the triggers are there")
    insert(app, "ada@x")
    project.until_noted("public.contact.insert ada@x")
    declare(project, '"update"', when="NEW.active AND")
    refused = project.command("reload")
    assert refused.returncode == 1
    assert "syntax error at or near" in refused.stderr
    insert(app, "bob@x")
    project.until_noted("public.contact.insert bob@x")
    declare(project, '"update"')
    assert project.command("reload").returncode == 0
    insert(app, "eva@x")
    app.execute("UPDATE contact SET email = 'eve@x' WHERE email = 'eva@x'")
    app.execute("DELETE FROM contact")
    app.commit()
    project.until_noted("public.contact.update eve@x")
    assert [view.event for view in project.views()][::-1] == [
        *["public.contact.insert"] * 2,
        "public.contact.update",
    ]


def test_a_trigger_that_cannot_be_made_stops_the_start(
    project: Project, app: psycopg.Connection[Any]
) -> None:
    """With PostgreSQL's own words and without a traceback; on SQLite it is said what is needed."""
    declare(project, '"insert"', when="NEW.activ")
    supervisor = project.start()
    assert supervisor.wait() == 1
    said = supervisor.output()
    assert "task greet: its trigger on public.contact, for insert, cannot be made" in said
    assert "column new.activ does not exist" in said
    project.use_database(f"sqlite:///{project.folder}/conductor.db")
    supervisor = project.start()
    assert supervisor.wait() == 2
    assert "task greet: DatabaseChange needs PostgreSQL" in supervisor.output()
    assert "Traceback" not in said + supervisor.output()
