"""The database: all SQL of Conductor, one function a move.

Every function takes a connection inside a transaction that its caller owns, and takes the time as a value.
Nothing here decides; it moves rows, and tells the caller which rows could not be moved.

``location``    what a database URL means
``database``    opens it; transactions, migrations, what is worth repeating
``sqlite``      one file for one supervisor
``postgresql``  one server for many
``dialect``     the SQL that databases write differently
``schema``      every table, with the constraints that make impossible rows impossible
``executions``  the moves of an execution, from insert to removal
``claiming``    taking ready executions within limits (``queue``, ``front``, ``keys``, ``starts``)
``attempts``    how attempts end
``leases``      which supervisors live
``wakeups``     hearing that others have changed the database
``steps``       recorded steps
``schedules``   cron schedules and their firings
``changes``     triggers on an application's tables, which make executions (PostgreSQL)
``telling``     the functions that these triggers call
``tasks``       what the running code declares; what operators have paused
``perform``     what clients may ask
``copying``     everything, into another database
``migrations``  how the schema came to be (Alembic)
"""
