"""Logs as JSON lines: one object a line, for TASKMANAGER_LOG_FORMAT=json.

Refuses to know requests: whoever logs puts what it knows into the attribute `fields` of a record.
"""

import json
import logging

from taskmanager.clock import format_time


class JsonLines(logging.Formatter):
    """`time`, `level`, `logger`, `message`, the fields of the record, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": format_time(round(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"))


def write_json_lines(level: int = logging.INFO) -> logging.Handler:
    """Sends what every logger of this process logs to stderr; what TaskManager logs, from `level`.

    Returns the handler, the same one each time.
    """
    logging.getLogger("taskmanager").setLevel(level)
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler.formatter, JsonLines):
            return handler
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    return handler
