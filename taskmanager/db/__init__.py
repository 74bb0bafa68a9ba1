"""The database: connections, statements, transactions and tables. Knows no rule of the queue."""

import sys

# peewee imports PyMySQL where there is one, and that cryptography, which SQLite does not need: see
# docs/decisions/0041. mysql/engine.py gives peewee what it is kept from here.
if not {"peewee", "pymysql"} & sys.modules.keys():
    sys.modules["pymysql"] = None  # type: ignore[assignment]
    try:
        import peewee  # noqa: F401
    finally:
        del sys.modules["pymysql"]
