"""The entry point that Passenger, mod_wsgi and LiteSpeed load.

If the program cannot start, every request is answered with 503 and a message that says what to do.
The web server's own error page would not help the owner of the host. The reason is written to
stderr and to start-error.log beside this file. So is the reason why the database cannot be used,
though the program itself starts then. The file is removed when the program works.
Requests try the start again, so new settings and newly installed libraries take effect.

This file uses only syntax of Python 2.7, so that an old Python can read it and report its version.
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


class Report(object):
    """The file start-error.log: what the owner of the host must do, or no file."""

    def __init__(self):
        self.text = None

    def write(self, text):
        """Writes the reason to stderr and the file, unless it is unchanged; "" removes the file."""
        if text == self.text:
            return
        self.text = text
        path = os.path.join(FOLDER, REPORT)
        try:
            if not text:
                os.remove(path)
                return
            sys.stderr.write("TaskManager cannot start. " + text)
            sys.stderr.flush()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(os.open(path, flags, 0o600), "w") as report:
                report.write(time.strftime("%Y-%m-%d %H:%M:%S %z\n") + text)
        except OSError:
            pass  # there was none; or stderr has it


def start():
    """Returns the application. Raises any exception that keeps it from starting."""
    if sys.version_info < OLDEST_PYTHON:
        raise PythonTooOld()
    # The objects of the start live as long as the process, so the garbage collector skips them.
    gc.disable()
    try:
        from taskmanager.app import create_app

        application = create_app(report=Report().write)
        gc.freeze()
        return application
    finally:
        gc.enable()


def advice(error):
    """The public message: what to do, without settings, paths or the text of a library."""
    if isinstance(error, PythonTooOld):
        return (
            "TaskManager needs Python %d.%d or newer, but this is %d.%d. Choose a newer version "
            "under Setup Python App, then press Run Pip Install."
        ) % (OLDEST_PYTHON + tuple(sys.version_info[:2]))
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, (SyntaxError, ImportError)) and package in ("", "taskmanager"):
        return "Files of TaskManager are missing or damaged. Upload the whole release again."
    if isinstance(error, ImportError):
        return (
            "The Python package %s is missing or too old. Open Setup Python App and press Run Pip "
            "Install, or run pip install -r requirements.txt."
        ) % package
    if getattr(error, "code", None) == "configuration_error":
        return "TaskManager is not configured correctly. Read %s in its folder." % REPORT
    return "TaskManager cannot start. Read %s in its folder." % REPORT


def reason(error):
    """The message for the owner, with the traceback if it helps. Call it in an except block."""
    if getattr(error, "code", None) == "configuration_error":
        return str(error) + "\n"
    if isinstance(error, PythonTooOld):
        return advice(error) + "\n"
    return advice(error) + "\n\n" + traceback.format_exc()


class NotStarted(object):
    """Answers 503 until the program starts, then passes every request to it."""

    def __init__(self, error):
        self.application = None
        self.report = Report()
        self.tried_at = time.time()
        self.lock = threading.Lock()
        self.note(error)

    def note(self, error):
        """Keeps what to answer, and writes the reason for the owner."""
        self.advice = advice(error)
        self.report.write(reason(error))

    def try_again(self):
        """Starts the program, at most once a second."""
        with self.lock:
            if self.application or 0 <= time.time() - self.tried_at < SECONDS_BETWEEN_TRIES:
                return
            forget_modules()
            try:
                self.application = start()
            except Exception as error:  # noqa: BLE001
                self.note(error)
            self.tried_at = time.time()

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
    """Forgets the imports of a failed start, so that files uploaded since then are read."""
    import importlib

    importlib.invalidate_caches()
    for name in list(sys.modules):
        if name.partition(".")[0] == "taskmanager":
            del sys.modules[name]


try:
    application = start()
except Exception as error:  # noqa: BLE001
    application = NotStarted(error)
