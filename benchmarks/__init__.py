"""How fast Conductor is on this machine: ``python -m benchmarks [NAME ...] [--quick] [--json FILE]``.

It needs no network: SQLite, and a PostgreSQL server of its own from a wheel, with its default durability.

Each figure is measured with a real supervisor with default settings, on SQLite and on a PostgreSQL server of
our own where the database matters, three times; the median counts, and the range is shown. Beside it stands a
floor where there is one: what the same machine, in the same run, takes for the bare thing underneath.

``measure``   what a figure is, and how its runs are summed up
``databases`` what they run on
``site``      a database with a client and supervisors; ``load``: work that never ends
``workload``  the tasks that are run; ``fresh_workload``: those that run in processes of their own
``floors``    the bare things underneath; ``sql_floors``: those of the databases
``figures``   one module for each figure
``table``     the table and the JSON
``markdown``  the table of docs/performance.md, from the JSON
"""
