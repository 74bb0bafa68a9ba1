"""The application factory: a list of what is wired together."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from flask import Flask, g, has_request_context, request

from taskmanager.api import register_api, register_request_hooks
from taskmanager.api.http_rules import register_http_rules
from taskmanager.api.rate_limits import register_rate_limits
from taskmanager.api.request_logs import register_request_logs
from taskmanager.api.waiting_calls import WaitingCalls
from taskmanager.bootstrap import load_plugins, open_database, prepare_database
from taskmanager.config import Settings, load_settings
from taskmanager.dashboard import mount_dashboard
from taskmanager.db import schema
from taskmanager.db.connection import (
    close_connection,
    dialect,
    disconnect_database,
    release_connection,
    use_database,
    wakeups,
)
from taskmanager.db.dialect import MYSQL
from taskmanager.errors import ConfigurationError, DatabaseRefused, DatabaseUnavailable
from taskmanager.queue.task_types import TaskDefaults

HEALTH_ENDPOINT = "api.service.health"
_DATABASE = "taskmanager.database"


log = logging.getLogger(__name__)


def create_app(
    config: Mapping[str, Any] | None = None, *, report: Callable[[str], None] | None = None
) -> Flask:
    """The WSGI application.

    `config` maps names of Settings fields to values; what it leaves out comes
    from the environment and `.env`. Raises ConfigurationError for settings
    that cannot work. A database that cannot be reached does not keep the
    application from starting: it answers 503 until the database is there. `report`
    keeps start-error.log: it is called with what to do about the database, and
    with an empty text once it can be used.
    """
    settings = load_settings(config)
    app = Flask(__name__, static_folder=None)
    app.extensions["taskmanager"] = settings
    app.extensions["taskmanager.task_defaults"] = TaskDefaults.of(settings)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # no answer sends anybody to the host that a request named
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    if settings.log_format == "json":
        register_request_logs(app)
    load_plugins(settings)
    register_api(app)
    app.extensions[_DATABASE] = open_database(settings)
    try:
        _register_all_that_needs_the_database(app, settings, report)
    except BaseException:
        close_app(app)  # who tries again every second must not hold one connection more each time
        raise
    return app


def _register_all_that_needs_the_database(
    app: Flask, settings: Settings, report: Callable[[str], None] | None
) -> None:
    use_prepared_database = _use_own_database(app, settings, report)
    register_rate_limits(app, settings)
    register_request_hooks(app, use_prepared_database)
    WaitingCalls(settings.waiting_calls, wakeups()).register(app)
    mount_dashboard(app, use_prepared_database)
    register_http_rules(app, settings)
    if dialect() is MYSQL:
        close_connection()  # the thread that starts may serve nothing, or be forked
        app.teardown_appcontext(lambda _: release_connection())


def close_app(app: Flask) -> None:
    """Ends the use of an application's database in this process.

    For programs that create several applications. No request may be running.
    """
    disconnect_database(app.extensions[_DATABASE])


def _use_own_database(
    app: Flask, settings: Settings, report: Callable[[str], None] | None
) -> Callable[[], None]:
    """Returns what lets a request use the database of its application: a process may have several.

    Its tables are created or upgraded at the start, or else before the first request that
    can. The health call is answered all the same: it says what is wrong.
    """
    engine = app.extensions[_DATABASE]
    prepared = False

    def prepare(patience_seconds: int) -> None:
        nonlocal prepared
        if prepared:
            return
        try:
            prepare_database(settings, patience_seconds=patience_seconds)
        except ConfigurationError as error:
            if not has_request_context():
                raise
            refused = DatabaseRefused(
                error.message, cause="The tables cannot be made", remedy=error.message
            )
            _tell_the_owner(refused, report)
            raise refused from error
        except DatabaseUnavailable as error:
            _tell_the_owner(error, report)
            raise
        prepared = True
        if report:
            report("")

    try:
        prepare(schema.START_PATIENCE_SECONDS)
    except DatabaseUnavailable as error:
        log.warning("starting without the database: %s", error.message)

    def use_prepared_database() -> None:
        use_database(engine)
        try:
            prepare(schema.REQUEST_PATIENCE_SECONDS)
        except DatabaseUnavailable as error:
            if request.endpoint != HEALTH_ENDPOINT:
                raise
            g.database_refusal = error

    return use_prepared_database


def _tell_the_owner(error: DatabaseUnavailable, report: Callable[[str], None] | None) -> None:
    """Puts the remedy where the owner of the host finds it; the answer names that place.

    Nobody can prove to be the owner while the database with the keys cannot be used.
    """
    text = f"{error.cause}. {error.remedy}" if error.remedy else error.message
    place = "The log of the server"
    if report:
        report(text + "\n")
        place = "start-error.log in the folder of the program"
    else:
        log.error("database: %s", text)
    if error.remedy:
        error.message = f"{error.cause}. Nothing was changed. {place} says what to do."
