"""Queues whose type `secret` is encrypted, and what lies in their databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Flask

from taskmanager.app import close_app, create_app
from taskmanager.db.connection import database, dialect, use_database
from taskmanager.db.dialect import SQLITE
from taskmanager.db.models import MODELS, SchemaVersion
from taskmanager.db.statements import fetch_all
from tests.conftest import Api, make_key

KEY, NEW_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()
HIDDEN = "xylophone"  # is in every text that is to be encrypted, and in nothing else


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"payload_key": KEY}


@pytest.fixture(autouse=True)
def _leave_no_keys(app: Flask) -> Iterator[None]:
    """The next test on the same server starts with other keys."""
    yield
    use_database(app.extensions["taskmanager.database"])
    if dialect() is not SQLITE:
        for model in reversed(MODELS):
            if model is not SchemaVersion:
                model.delete().execute()


@pytest.fixture
def queue(api: Api) -> Api:
    api.register("secret", is_encrypted=True)
    api.register("open")
    return Api(api.client, make_key("admin"))


@pytest.fixture
def restart(app: Flask, database_url: str, tmp_path: Path) -> Iterator[Any]:
    """Starts another application on the same database, with other keys."""
    started = []

    def start(*keys: str) -> Api:
        settings = {"instance_path": tmp_path / "instance", "database_url": database_url}
        application = create_app({**settings, "payload_key": ",".join(keys)})
        started.append(application)
        return Api(application.test_client(), make_key("admin"))

    yield start
    for application in started:
        close_app(application)


def stored() -> str:
    """Everything in the database; of SQLite the files, with what was deleted from their pages."""
    if dialect() is SQLITE:
        file = Path(database.database)
        files = [file, file.with_name(f"{file.name}-wal")]
        return "".join(one.read_bytes().decode("latin-1") for one in files if one.exists())
    names = [model._meta.plain_name for model in MODELS]
    return repr([fetch_all(f"SELECT * FROM {{{name}}}") for name in names])
