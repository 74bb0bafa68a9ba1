"""The fields of forms: for the params of a task, made from its type's schema, and others.

A schema whose properties are plain gets one field for each; any other gets one field for all
params as JSON. What the queue refuses is said beside the field that it is about.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flask import request

from taskmanager.api.requests import parse_json
from taskmanager.db.statements import Row
from taskmanager.errors import InvalidRequest, TaskManagerError, ValidationFailed

MAX_FIELDS = 60
LONG_TEXT = 120  # characters; what may be longer gets a field of several lines
SHOWN_CHARACTERS = 200  # of what a field holds by now
# Code of an error → the field that it is about.
_ABOUT = {"webhook_not_found": "notify", "no_payload_key": "is_encrypted"}
_KINDS = {"string": "text", "integer": "number", "number": "number", "boolean": "flag"}


@dataclass
class Field:
    """One field of the form. `text` is what it shows, `problem` what was wrong with it.

    `kind` is `text`, `long`, `number`, `flag`, `choice` or `json`.
    """

    name: str
    kind: str
    label: str = ""  # where it is not the name
    help: str = ""
    is_required: bool = False
    choices: tuple[str, ...] = ()  # as JSON
    text: str = ""
    problem: str = ""
    is_stored: bool = True  # False: what it asks for is not what it shows the next time

    def value(self) -> Any:
        """The value that the text stands for. Raises InvalidRequest."""
        if self.kind in ("text", "long"):
            return self.text.replace("\r\n", "\n")
        try:
            return parse_json(self.text.strip().encode())
        except InvalidRequest as error:
            if self.kind == "number":
                raise InvalidRequest("must be a number") from None
            raise InvalidRequest(error.message.replace("The body", "This")) from None

    def show(self, value: Any) -> None:
        """Fills the field with a value."""
        is_text = self.kind in ("text", "long") and isinstance(value, str)
        self.text = value if is_text else json.dumps(value, ensure_ascii=False)

    def keeps(self, value: Any) -> bool:
        """Whether a browser sends back what `show` has shown of the value, unchanged."""
        if self.kind in ("text", "long"):
            if not isinstance(value, str) or not value or "\r" in value:
                return False
            return "\n" not in value or (self.kind == "long" and not value.startswith("\n"))
        if self.kind == "choice":
            return self.text in self.choices
        return self.kind != "flag" or isinstance(value, bool)

    def refuse(self, message: str) -> None:
        """Says what was wrong, a sentence that goes on after the name of the field."""
        self.problem = f"{self.label or self.name} {message}"


def fields_of(schema: Any) -> list[Field]:
    """A field for each property of an object's schema; none where it does not name them."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not 0 < len(properties) <= MAX_FIELDS:
        return []
    required = schema.get("required", [])
    fields = [_field(name, one, name in required) for name, one in properties.items()]
    return sorted(fields, key=lambda field: not field.is_required)


def _field(name: str, schema: Any, is_required: bool) -> Field:
    schema = schema if isinstance(schema, dict) else {}
    found = Field(name, _KINDS.get(str(schema.get("type")), "json"), is_required=is_required)
    found.help = str(schema.get("description") or schema.get("title") or "")
    if isinstance(schema.get("enum"), list):
        found.kind = "choice"
        found.choices = tuple(json.dumps(one, ensure_ascii=False) for one in schema["enum"])
    elif found.kind == "text" and schema.get("maxLength", LONG_TEXT + 1) > LONG_TEXT:
        found.kind = "long" if "maxLength" in schema else "text"
    if "default" in schema:
        found.show(schema["default"])
    return found


@dataclass
class ParamsForm:
    """A form with the params of a task: as `fields`, or with `is_json` as one text."""

    type: Row
    fields: list[Field]
    is_json: bool
    params: str = "{}"
    params_by_now: str = ""  # to be shown beside those that were typed as one text
    problem: str = ""
    others: list[Field] = field(default_factory=list)  # named like the fields of the request

    def take(self, sent: Mapping[str, str]) -> None:
        """Shows what was typed into it."""
        self.is_json, self.params = "params" in sent, sent.get("params", "{}")
        for one in self.fields:
            one.text = sent.get(f"param.{one.name}", "")
        for one in self.others:
            one.text = sent.get(one.name, "").strip()

    def read_params(self) -> Any:
        """The params that were filled in. Raises InvalidRequest, said beside the fields."""
        if not self.is_json:
            return read_fields(self.fields)
        try:
            return parse_json(self.params.encode())
        except InvalidRequest as error:
            raise InvalidRequest(error.message.replace("The body", "The text")) from None

    def changed_params(self, params: Any) -> dict[str, Any]:
        """`params` of the request if those that were filled in differ. Raises as `read_params`."""
        typed = self.read_params()
        return {} if _as_text(typed) == _as_text(params) else {"params": typed}

    def fill(self, params: dict[str, Any]) -> None:
        """Shows `params`: as one text where the fields would not send back what they were given."""
        self.params = as_lines(params)
        self.is_json = self.is_json or not params.keys() <= {one.name for one in self.fields}
        for one in self.fields:
            one.text = ""
            if one.name in params:
                one.show(params[one.name])
                self.is_json = self.is_json or not one.keeps(params[one.name])

    def say(self, error: TaskManagerError) -> None:
        """Puts what was refused beside the fields that it is about, and the rest into `problem`."""
        beside = {one.name: one for one in self.others}
        if not self.is_json:
            beside |= {f"params.{one.name}": one for one in self.fields}
        self.problem = say_beside(beside, error)

    def say_changed(self, what: str, present: "ParamsForm") -> None:
        """The same for what somebody else has changed meanwhile; see say_changed below."""
        if present.is_json and not self.is_json:  # the fields have no room for all params any more
            self.is_json, self.params = True, as_lines(self.read_params())
        if self.is_json:
            self.params_by_now = present.params
        mine, its = (*self.fields, *self.others), (*present.fields, *present.others)
        self.problem = say_changed(what, mine, its)


def _as_text(value: Any) -> str:
    """Equal for equal JSON alone: to Python, 1 is the same as true."""
    return json.dumps(value, sort_keys=True)


def filled(fields: Sequence[Field], value_of: Callable[[str], Any]) -> list[Field]:
    """Copies of the fields with what `value_of` has for the name of each; None: an empty one."""
    copies = [replace(one) for one in fields]
    for one in copies:
        value = value_of(one.name)
        if value is not None:
            one.show(value)
    return copies


def tags_of(row: Row) -> str:
    """The tags of a task or a schedule as the text of a field."""
    return ", ".join(json.loads(row["tags"] or "[]"))


def read_tags(text: str) -> list[str]:
    """The tags that the text of a field stands for."""
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def last_seen() -> int:
    """When the row was changed last, as the page with the form has shown it; -1: it does not say.

    What the page shows may have been changed by now, and the form would take that back.
    """
    return request.form.get("updated_at", -1, type=int)


def say_changed(what: str, fields: Sequence[Field], present: Sequence[Field]) -> str:
    """Says beside each field what it holds by now, where that is not what was typed.

    Returns what to say above them; `what` begins its sentence.
    """
    for mine, its in zip(fields, present, strict=True):
        if mine.is_stored and mine.text != its.text:
            shown = its.text.strip('"') if its.kind == "choice" else its.text
            shown = shown[:SHOWN_CHARACTERS] + "…" * (len(shown) > SHOWN_CHARACTERS)
            mine.refuse(f"is now: {shown}" if shown else "is empty now")
    return (
        f"{what} has changed since this page was opened, so it was left as it is. What you typed "
        "is still here. Compare it with what is there now, and send it again."
    )


def as_lines(params: Any) -> str:
    """Params as the text of a form that has one field for them."""
    return json.dumps(params, ensure_ascii=False, indent=2)


def read_fields(fields: Collection[Field]) -> dict[str, Any]:
    """The values of the fields that are not empty. Raises InvalidRequest, said beside them."""
    values = {}
    for one in fields:
        if not one.text:
            continue
        try:
            values[one.name] = one.value()
        except InvalidRequest as error:
            one.refuse(error.message)
    if any(one.problem for one in fields):
        raise InvalidRequest("Some fields cannot be used; see beside them.")
    return values


def say_beside(fields: Mapping[str, Field], error: TaskManagerError) -> str:
    """Puts what was refused beside the fields, each by its path; returns what is left."""
    if about := fields.get(_ABOUT.get(error.code, "")):
        about.problem = error.message
        return ""
    details: Any = error.details if isinstance(error, ValidationFailed) else None
    if not details:
        for path, one in fields.items():
            if error.message.startswith(f"{path} "):
                one.refuse(error.message.removeprefix(f"{path} "))
                return ""
        return error.message
    left = []
    for problem in details:
        found = _field_at(problem["path"], fields)
        if found is None:
            left.append(f"{problem['path']} {problem['message']}")
        elif not found.problem:
            found.refuse(problem["message"])
    return "; ".join(left)


def _field_at(path: str, fields: Mapping[str, Field]) -> Field | None:
    """The field that a path such as `params.user.id` begins with."""
    for start, one in fields.items():
        if path == start or path.startswith((f"{start}.", f"{start}[")):
            return one
    return None
