"""The entry point that Passenger, mod_wsgi and LiteSpeed load.

Where the program cannot start, every request is answered with 503 and a sentence that says what
to do, instead of the server's own page, which tells the owner of the host nothing. The reason goes
to stderr and into start-error.log beside this file, which is gone again once the program runs.
What is set or installed meanwhile is noticed at the next request.

An old Python must be able to read this file, to say that it is too old: no syntax that 2.7 lacks.
"""

import binascii
import gc
import json
import os
import sys
import threading
import time
import traceback

FOLDER = os.path.dirname(os.path.abspath(__file__))
REPORT = "start-error.log"
OLDEST_PYTHON = (3, 11)
SECONDS_BETWEEN_TRIES = 1

sys.path.insert(0, FOLDER)


class PythonTooOld(Exception):
    """This Python cannot run the program."""


def start():
    """Returns the application; raises whatever keeps it from starting."""
    if sys.version_info < OLDEST_PYTHON:
        raise PythonTooOld()
    # What a start makes, it keeps: looking for garbage in it would only take time, now and later.
    gc.disable()
    try:
        from taskmanager.app import create_app

        application = create_app()
        gc.freeze()
        return application
    finally:
        gc.enable()


def advice(error):
    """What a stranger may read: what to do, without settings, paths or a library's words."""
    if isinstance(error, PythonTooOld):
        return (
            "TaskManager needs Python %d.%d or newer, and this is %d.%d: choose a newer one under "
            "Setup Python App, then press Run Pip Install."
        ) % (OLDEST_PYTHON + tuple(sys.version_info[:2]))
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, (SyntaxError, ImportError)) and package in ("", "taskmanager"):
        return "Files of TaskManager are missing or damaged: upload the whole release again."
    if isinstance(error, ImportError):
        return (
            "The Python package %s is missing or too old: open Setup Python App and press Run Pip "
            "Install, or run pip install -r requirements.txt."
        ) % package
    if getattr(error, "code", None) == "configuration_error":
        return "TaskManager is not set up rightly: %s in its folder says what to change." % REPORT
    return "TaskManager cannot start: %s in its folder says why." % REPORT


def reason(error):
    """What the owner may read: one sentence, or also where it happened. While it is handled."""
    if getattr(error, "code", None) == "configuration_error":
        return str(error) + "\n"
    if isinstance(error, PythonTooOld):
        return advice(error) + "\n"
    return advice(error) + "\n\n" + traceback.format_exc()


class NotStarted(object):
    """Answers 503 until the program starts, then hands everything to it."""

    def __init__(self, error):
        self.application = None
        self.told = None
        self.tried = time.time()
        self.lock = threading.Lock()
        self.note(error)

    def note(self, error):
        """Tells the owner the reason, once."""
        self.advice = advice(error)
        text = reason(error)
        if text == self.told:
            return
        self.told = text
        sys.stderr.write("TaskManager cannot start. " + text)
        sys.stderr.flush()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(os.path.join(FOLDER, REPORT), flags, 0o600), "w") as report:
                report.write(time.strftime("%Y-%m-%d %H:%M:%S %z\n") + text)
        except OSError:
            pass  # stderr has it

    def try_again(self):
        with self.lock:
            if self.application or 0 <= time.time() - self.tried < SECONDS_BETWEEN_TRIES:
                return
            forget_modules()
            try:
                self.application = start_and_clear()
            except Exception as error:  # noqa: BLE001
                self.note(error)
            self.tried = time.time()

    def __call__(self, environ, start_response):
        if not self.application:
            self.try_again()
        if self.application:
            return self.application(environ, start_response)
        envelope = {"success": False, "error": self.advice, "message": self.advice}
        envelope.update(code="not_started", timestamp=int(time.time()))
        headers = [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("Retry-After", "10"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Request-ID", binascii.hexlify(os.urandom(16)).decode()),
        ]
        start_response("503 Service Unavailable", headers)
        body = json.dumps(envelope) + "\n"
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body.encode()]


def forget_modules():
    """Of a start that failed, so that files which were uploaded since are read."""
    import importlib

    importlib.invalidate_caches()
    for name in list(sys.modules):
        if name.partition(".")[0] == "taskmanager":
            del sys.modules[name]


def start_and_clear():
    """`start()`, which makes the report of an earlier failure out of date."""
    started = start()
    try:
        os.remove(os.path.join(FOLDER, REPORT))
    except OSError:
        pass  # there was none
    return started


try:
    application = start_and_clear()
except Exception as error:  # noqa: BLE001
    application = NotStarted(error)
