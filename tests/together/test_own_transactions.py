"""Invocations in a transaction of the caller's own, with a supervisor that waits for work."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from conductor import Conductor
from harness import Project

pytestmark = pytest.mark.together

TASKS = """
    from sqlalchemy import create_engine, text

    engine = create_engine(os.environ["THEIRS"])

    @app.task
    def send(event, ctx):
        with engine.connect() as connection:
            return connection.scalar(text("SELECT count(*) FROM orders"))

    @app.task(max_attempts=1)
    def order(event, ctx):
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO orders (number) VALUES (1)"))
            app.invoke("send", connection=connection)
            if event.payload == "fail":
                raise RuntimeError("the goods are out of stock")

    @app.task(max_attempts=1)
    async def order_async(event, ctx):
        from sqlalchemy.ext.asyncio import create_async_engine
        theirs = create_async_engine(os.environ["THEIRS"].replace("sqlite:", "sqlite+aiosqlite:"))
        async with theirs.begin() as connection:
            await connection.execute(text("INSERT INTO orders (number) VALUES (1)"))
            await app.invoke_async("send", connection=connection)
        await theirs.dispose()

    @app.task
    def other(event, ctx):
        return "done"
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, project: Project) -> Project:
    """A project whose database holds orders too."""
    if request.param == "postgresql":
        project.url = request.getfixturevalue("postgres_url")
        project.environment["CONDUCTOR_DATABASE_URL"] = project.url
    project.environment["THEIRS"] = project.url.replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(project.environment["THEIRS"])
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (number INTEGER)"))
    engine.dispose()
    project.tasks(TASKS)
    assert project.command("migrate").returncode == 0
    return project


def test_it_runs_when_the_caller_has_committed(shop: Project) -> None:
    """So the handler sees all that was written beside it; and what is undone never runs."""
    supervisor = shop.start(runners=1)
    shop.until_state(shop.invoke("other"), "completed")
    engine = create_engine(shop.environment["THEIRS"])
    with Conductor(shop.url) as app, engine.connect() as connection:
        undone = app.invoke("send", connection=connection)
        connection.rollback()
        handle = app.invoke("send", connection=connection)
        connection.execute(text("INSERT INTO orders (number) VALUES (1)"))
        if shop.url.startswith("postgresql"):  # SQLite lets only one write
            shop.until_state(shop.invoke("other"), "completed")
        connection.commit()
        assert shop.until_state(handle.id, "completed").result == 1
    engine.dispose()
    assert undone.id not in {view.id for view in shop.views()}
    assert supervisor.stop() == 0


def test_a_handler_lends_a_connection_as_any_other_program(shop: Project) -> None:
    """A runner then writes by itself; what the handler rolls back is not invoked."""
    failed = shop.invoke("order", "fail")
    bought = shop.invoke("order")
    shop.drain(runners=1)
    assert shop.view(failed).state == "failed"
    assert shop.view(bought).state == "completed", shop.view(bought)
    assert [view.result for view in shop.views(task="send")] == [1]
    awaited = shop.invoke("order-async")
    shop.drain(runners=1)
    assert shop.view(awaited).state == "completed", shop.view(awaited)
    assert [view.result for view in shop.views(task="send")] == [2, 1]
