"""Reading requests: a body as strict JSON that fits its schema, query parameters by their names.

Also what views ask of the application that answers the present request: its settings.
"""

import difflib
import functools
import gc
import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flask import Request, current_app, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from taskmanager.api.json_schema import OBJECT
from taskmanager.clock import parse_time
from taskmanager.config import Settings
from taskmanager.errors import InvalidRequest, ValidationFailed
from taskmanager.params import schemas, validation
from taskmanager.params.empty_objects import object_of, schema_with_objects
from taskmanager.params.limits import MAX_DEPTH, is_too_deep
from taskmanager.params.messages import NEAR, headline
from taskmanager.queue.task_types import TaskDefaults

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
LARGE_TEXT = 16_384
Values = dict[str, Any]  # of a body or a query, by name
PARAMS_PATH = "params.PATH"  # stands for any path into the params of a task
TASK = f"/<int(max={MAX_INTEGER}):task_id>"  # how a path names a task


def present() -> tuple[Request, Any]:
    """The present request and its `g` themselves, for what uses them often.

    Flask's `request` and `g` stand for them, and look them up at each use.
    """
    return request._get_current_object(), g._get_current_object()  # type: ignore[attr-defined]


def settings() -> Settings:
    """The settings of the application that answers the present request."""
    found: Settings = current_app.extensions["taskmanager"]
    return found


def task_defaults() -> TaskDefaults:
    """What the settings give a task where neither request nor type does."""
    found: TaskDefaults = current_app.extensions["taskmanager.task_defaults"]
    return found


class EncodedBody(UnsupportedMediaType):
    """A body that is compressed: what it unpacks to would not be held by any limit."""

    description = "The body must not be compressed: send it without the header Content-Encoding."


class RequestBody:
    """The fields that a call takes, as a JSON Schema in which no other field is allowed.

    null for an optional field means that it was not sent, unless the call `keeps_null`.
    """

    def __init__(
        self, *, required: tuple[str, ...] = (), keeps_null: bool = False, **fields: Any
    ) -> None:
        self.fields = fields
        self.schema: dict[str, Any] = {
            "type": "object",
            "properties": fields,
            "additionalProperties": False,
        }
        if required:
            self.schema["required"] = list(required)
        self._times = [n for n, one in fields.items() if one.get("format") == "date-time"]
        # 1.0 is an integer to JSON Schema; the fields that want one get it as such.
        kinds = ("integer", ["integer", "null"])
        self._integers = [n for n, one in fields.items() if one.get("type") in kinds]
        # What each pattern asks for, and the one anyOf: the description beside it.
        self._in_words = dict(_in_words(self.schema))
        self._as_meant = _reader_of_record(self.schema, keeps_null)

    @functools.cached_property
    def _validator(self) -> Any:
        return schemas.compile_schema(self.schema)

    def read(self) -> dict[str, Any]:
        """The request's JSON object, where it fits. An empty body is an empty object.

        Raises InvalidRequest for malformed JSON, ValidationFailed naming every
        field that is missing, wrong or unknown, UnsupportedMediaType, and
        RequestEntityTooLarge.
        """
        asked, _ = present()
        encoding = asked.environ.get("HTTP_CONTENT_ENCODING", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            raise EncodedBody
        raw = _read_body(asked)
        if not raw:
            return self.check({})
        if not asked.is_json:
            raise UnsupportedMediaType
        body = parse_json(raw)
        if body == []:  # what PHP writes for an empty object
            body = {}
        if not isinstance(body, dict):
            raise InvalidRequest('The body must be a JSON object: {"field": value}.')
        return self.check(body)

    def check(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body` as it was meant, where it fits, with times in milliseconds.

        Raises InvalidRequest.
        """
        body = self._as_meant(body)
        # Our own schemas cost little to check against any body, so nothing is estimated before.
        if not self._validator.library.is_valid(body):
            problems = validation.problems_of(self._validator, body, in_words=self._in_words)
            raise ValidationFailed(headline(problems), code="invalid_request", details=problems)
        for name in self._integers:
            if isinstance(body.get(name), float):
                body[name] = int(body[name])
        for name in self._times:
            if body.get(name) is not None:
                body[name] = _read_time(name, body[name])
        return body


Reader = Callable[[Any], Any]


def _reader_of_record(schema: dict[str, Any], keeps_null: bool) -> Reader:
    """Reads what PHP and JavaScript write of an object: null for what they do not send, [] for {},
    ids as text. All else is left as it is, and refused where it is wrong.
    """
    fields = schema["properties"]
    optional = frozenset() if keeps_null else fields.keys() - schema.get("required", ())
    found = {name: _reader(field, keeps_null) for name, field in fields.items()}
    readers = [(name, reader) for name, reader in found.items() if reader is not None]
    if "param_schema" in fields:
        readers = [(name, reader) for name, reader in readers if name != "param_schema"]
        readers.append(("param_schema", _param_schema))

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if None in value.values():
            value = {
                name: part
                for name, part in value.items()
                if part is not None or name not in optional
            }
        for name, reader in readers:
            if name in value:
                value[name] = reader(value[name])
        return value

    return read


def _reader(schema: dict[str, Any], keeps_null: bool) -> Reader | None:
    """How a value of `schema` is read; None: as it is."""
    if schema == OBJECT:
        return object_of
    if schema.get("maximum") == MAX_INTEGER:  # as no number but an id has
        return _id
    if "properties" in schema:
        return _reader_of_record(schema, keeps_null)
    if "anyOf" in schema:  # an id, or what no id is
        return _id if any(_reader(one, keeps_null) is _id for one in schema["anyOf"]) else None
    reader = _reader(schema["items"], keeps_null) if "items" in schema else None
    if reader is None:
        return None
    return lambda value: [reader(item) for item in value] if isinstance(value, list) else value


def _id(value: Any) -> Any:
    is_id = isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value)
    return int(value) if is_id else value


def _param_schema(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = parse_json(value.encode())
        except InvalidRequest as error:
            reason = error.message.replace("The body", "the text")
            raise InvalidRequest(
                f"param_schema must be a JSON Schema, or one as text; {reason}"
            ) from None
    return schema_with_objects(value)


def _read_body(asked: Request) -> bytes:
    try:
        raw = asked.get_data(cache=False)
        # Of a body in chunks no length was told before, and reading just ended at the limit.
        is_cut = asked.content_length is None and len(raw) == asked.max_content_length
        if is_cut and asked.environ["wsgi.input"].read(1):
            raise RequestEntityTooLarge
    except HTTPException:
        raise
    except Exception:  # noqa: BLE001 - each web server has errors of its own
        raise InvalidRequest(
            "The body did not arrive whole, or not in the chunks that it announced; send it again.",
            code="bad_request",
        ) from None
    return raw


def _in_words(schema: Any) -> Iterator[tuple[str, str]]:
    parts = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, dict) and isinstance(schema.get("pattern"), str):
        yield schema["pattern"], schema["description"]
    if isinstance(schema, dict) and isinstance(schema.get("anyOf"), list):
        yield "anyOf", schema["description"]
    for part in parts:
        if isinstance(part, (dict, list)):
            yield from _in_words(part)


def parse_json(raw: bytes) -> Any:
    """`raw` as JSON that every database here can store and give back.

    Raises InvalidRequest for what is no JSON (NaN and Infinity included), for
    integers past 64 bits, numbers past the range of a double, the character
    U+0000, half surrogate pairs, and nesting deeper than MAX_DEPTH.
    """
    try:
        text = raw.removeprefix(BOM_UTF8).decode()  # Windows begins a text with a byte order mark
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The body is not UTF-8 (byte {error.start + 1}).", code="malformed_json"
        ) from None
    try:
        value = decode_json(text, _decoder)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: it cannot be read past line {error.lineno}, column "
            f"{error.colno}; look for a quote, comma or bracket that is missing or too many.",
            code="malformed_json",
        ) from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("{") + text.count("[") > MAX_DEPTH and is_too_deep(value):
        raise _too_deep()
    if "\\u" in text:
        _check_strings(value)
    return value


_plain = json.JSONDecoder()


def decode_json(text: str, decoder: json.JSONDecoder = _plain) -> Any:
    """The value of a JSON text. Raises what `decoder` raises.

    A megabyte can hold 300,000 lists. While they are created, Python's garbage
    collector searches them again and again for cycles, which JSON cannot have.
    That takes several times as long as decoding, so it is off meanwhile.
    """
    if len(text) < LARGE_TEXT or not gc.isenabled():
        return decoder.decode(text)
    gc.disable()
    try:
        return decoder.decode(text)
    finally:
        gc.enable()


def _no_constant(name: str) -> None:
    raise InvalidRequest(
        f"The body is not valid JSON: {name} is not a JSON value; send null or a string.",
        code="malformed_json",
    )


def _integer(text: str) -> int:
    # 20 characters hold every 64-bit integer; int() is slow on, and refuses, very long ones.
    if len(text) <= 20 and MIN_INTEGER <= (number := int(text)) <= MAX_INTEGER:
        return number
    raise InvalidRequest(
        f"The number {text[:30]} does not fit into 64 bits; send it as a string.",
        code="number_out_of_range",
    )


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidRequest(
            f"The number {text[:30]} is too large; send it as a string.", code="number_out_of_range"
        )
    return number


# Made once: json.loads() with options makes a decoder for every call.
_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer, parse_float=_number)


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The body is nested more than {MAX_DEPTH} levels deep; flatten it.", code="nested_too_deep"
    )


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidRequest(
                "The body holds the character U+0000 (\\u0000), which not every database can "
                "store; leave it out or encode it.",
                code="unstorable_text",
            )
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRequest(
                "The body holds half of a surrogate pair (\\ud800 to \\udfff alone), which is "
                "no character.",
                code="unstorable_text",
            )
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_strings(name)
            _check_strings(item)
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)


class QueryParameters:
    """The query parameters that a call takes, each with the JSON Schema of its value.

    With PARAMS_PATH among them, `params.user.id=5` asks for a value in a task's params.
    """

    def __init__(self, **fields: dict[str, Any]) -> None:
        self.fields = fields

    def read(self) -> dict[str, Any]:
        """The value of each parameter by its name; one that was not sent has its default.

        Raises InvalidRequest as `parse` does, for a parameter that is given twice, and for a
        cursor together with an offset.
        """
        for name, texts in request.args.lists():
            if name in self.fields and len(texts) > 1:
                raise InvalidRequest(f"The query parameter {name} may be given only once.")
        query = self.parse(request.args, "query parameter")
        if query.get("cursor") is not None and query.get("offset"):
            raise InvalidRequest("Send cursor or offset, not both.")
        return query

    def parse(self, texts: Mapping[str, str], what: str) -> dict[str, Any]:
        """The value of each parameter, given as text by its name; one that is missing its default.

        Without a default that is None, False or an empty tuple. `params` has pairs of path and
        text. Raises InvalidRequest for a name that is none of the parameters, with the nearest
        one as a hint, and for a value of the wrong kind.
        """
        paths = []
        for name, text in texts.items():
            if name.startswith("params.") and PARAMS_PATH in self.fields:
                paths.append((name.removeprefix("params."), text))
            elif name not in self.fields:
                near = difflib.get_close_matches(name, self.fields, n=1, cutoff=NEAR)
                known = ", ".join(self.fields)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {known}."
                raise InvalidRequest(f"No such {what}: '{name}'; {hint}")
        values = {
            name: _parameter(name, texts.get(name), schema)
            for name, schema in self.fields.items()
            if name != PARAMS_PATH
        }
        return {**values, "params": tuple(paths)} if PARAMS_PATH in self.fields else values


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """What `parse` takes, from JSON values: a list is comma-separated. Raises InvalidRequest."""
    texts = {}
    for name, value in values.items():
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, (dict, list)) for part in parts):
            raise InvalidRequest(f"filter.{name} must be text, a number, true, false or null.")
        texts[name] = ",".join(
            part if isinstance(part, str) else json.dumps(part) for part in parts
        )
    return texts


def _parameter(name: str, text: str | None, schema: dict[str, Any]) -> Any:
    """Times are milliseconds since the epoch; a list is comma-separated."""
    kind = schema["type"]
    if text is None:
        return schema.get("default", {"boolean": False, "array": ()}.get(kind))
    if schema.get("format") == "date-time":
        return _read_time(name, text)
    if kind == "integer":
        low, high = schema["minimum"], schema["maximum"]
        # int() alone would take 1_0, spaces, and the digits of every script.
        if re.fullmatch(r"-?[0-9]{1,19}", text) and low <= (number := int(text)) <= high:
            return number
        raise InvalidRequest(
            f"{name} must be a whole number from {low} to {high}, not '{text[:50]}'."
        )
    if kind == "array":
        given = tuple(part.strip() for part in text.split(",") if part.strip())
        choices = schema["items"]["enum"]
        if len(given) < schema.get("minItems", 0):
            raise InvalidRequest(f"{name} must be one or more of {', '.join(choices)}.")
        for one in given:
            if one not in choices:
                raise InvalidRequest(
                    f"{name} is a comma-separated list of {', '.join(choices)}; "
                    f"'{one[:50]}' is none of them."
                )
        return given
    if "\0" in text:
        raise InvalidRequest(f"{name} holds the character U+0000.")
    choices = ("true", "false", "1", "0") if kind == "boolean" else schema.get("enum")
    if choices and text not in choices:
        raise InvalidRequest(f"{name} must be one of {', '.join(choices)}, not '{text[:50]}'.")
    return text in ("true", "1") if kind == "boolean" else text


def _read_time(name: str, text: str) -> int:
    """Milliseconds since the epoch from an RFC 3339 time. Raises InvalidRequest."""
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name} must be a time with its offset from UTC, for example 2026-01-31T12:00:00Z "
            f"(in a query string write + as %2B), not '{text[:50]}'."
        ) from None
