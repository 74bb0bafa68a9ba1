"""Reads `.env`. A line that cannot be read is a fault of the file; none is passed over."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_LINE_END = re.compile(r"\r\n|\r|\n")
_SETTING = re.compile(r"\s*(?:export\s+)?([^\W\d][\w.-]*)\s*=(.*)", re.DOTALL)
_QUOTED = {
    quote: re.compile(rf"{quote}((?:\\.|[^\\{quote}])*){quote}\s*(?:#.*)?", re.DOTALL)
    for quote in "'\""
}
_ESCAPED = {"'": re.compile(r"\\([\\'])"), '"': re.compile(r"\\([\\'\"abfnrtv])")}
_CONTROLS = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
_VARIABLE = re.compile(r"\$\{([^}:]*)(?::-([^}]*))?\}")
_COMMENT = re.compile(r"\s+#.*")
_TYPOGRAPHIC_QUOTES = tuple("“”„‟‘’‚‛«»`´")


class EnvFile(NamedTuple):
    """Value and line by name, and by line what is wrong with it and how to mend it.

    A fault never repeats a value: that may be a password. A file that cannot be
    read at all has its fault in line 0.
    """

    values: dict[str, str]
    lines: dict[str, int]
    faults: dict[int, str]


def read_env_file(path: Path, *, prefix: str, environ: Mapping[str, str]) -> EnvFile:
    """Reads lines NAME=value with `export`, comments, quotes and `${NAME}`, as a shell does.

    `${NAME}` is a variable of the file or of `environ`. Names with `prefix` have
    one line each; other programs may have values of several lines. Without a
    file the result is empty.
    """
    found = EnvFile({}, {}, {})
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        # A folder of this name is often a virtual environment.
        if path.is_symlink() and not path.is_dir():
            found.faults[0] = "The link leads to no file. Correct or remove it."
        return found
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        found.faults[0] = f"The file cannot be read ({reason}). Correct its owner and permissions."
        return found
    if b"\0" in content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
        found.faults[0] = "The file is UTF-16 or binary. Save it as UTF-8."
        return found
    # Windows editors put a byte order mark in front.
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        lines = _LINE_END.split(content.decode())
    except UnicodeDecodeError as error:
        number = len(_LINE_END.split(content[: error.start].decode()))
        found.faults[number] = "A character is not UTF-8. Save the file as UTF-8."
        return found
    number = 0
    while number < len(lines):
        number += _read_setting(lines[number:], number + 1, found, prefix, environ)
    return found


def _read_setting(
    lines: list[str], number: int, found: EnvFile, prefix: str, environ: Mapping[str, str]
) -> int:
    """Reads the setting that begins in the first of `lines`. Returns how many lines it takes."""
    if not lines[0].strip() or lines[0].lstrip().startswith("#"):
        return 1
    match = _SETTING.fullmatch(lines[0])
    if not match:
        found.faults[number] = (
            "This is not NAME=value. Write the name, = and the value, or # in front of a comment."
        )
        return 1
    name, text = match.groups()
    if text.lstrip()[:1] in _QUOTED:
        text = text.lstrip()
    taken, is_ours = 1, name.upper().startswith(prefix)
    if text[:1] in _QUOTED and not is_ours:
        while not _QUOTED[text[0]].match(text) and taken < len(lines):
            text = f"{text}\n{lines[taken]}"
            taken += 1
        taken = taken if _QUOTED[text[0]].match(text) else 1
    try:
        value = _value(text, {**environ, **found.values}, strict=is_ours)
        if is_ours and found.values.get(name, value) != value:
            raise ValueError(
                f"{name} has another value in line {found.lines[name]}. Remove one of the lines."
            )
    except ValueError as error:
        found.faults[number] = str(error)
    else:
        found.values[name] = value
        found.lines[name] = number
    return taken


def _value(text: str, variables: Mapping[str, str], *, strict: bool) -> str:
    """The value that `text` stands for. Raises ValueError with what is wrong."""
    quote = text[:1]
    if quote in _QUOTED:
        match = _QUOTED[quote].fullmatch(text)
        if not match:
            raise ValueError(
                f"The value begins with {quote} but does not end with it. Close the quote; within "
                rf"it write \{quote} for {quote}."
            )
        inner = _ESCAPED[quote].sub(lambda found: _CONTROLS.get(found[1], found[1]), match[1])
        return inner if quote == "'" else _replaced(inner, variables, strict=strict)
    value = _COMMENT.sub("", text).strip()
    if strict and (value.startswith(_TYPOGRAPHIC_QUOTES) or value.endswith(("'", '"'))):
        raise ValueError(
            "A quote in the value is typographic or has no beginning. Put the value in single "
            "quotes, or remove the quote."
        )
    return _replaced(value, variables, strict=strict)


def _replaced(value: str, variables: Mapping[str, str], *, strict: bool) -> str:
    """`value` with the variables that it names."""

    def variable(found: re.Match[str]) -> str:
        name, default = found.groups()
        if strict and default is None and name not in variables:
            raise ValueError(
                "The value has ${…}, which stands for a variable, but there is no variable of that "
                "name. Correct the name, or put the value in single quotes to keep it as it is."
            )
        return variables.get(name, default or "")

    return _VARIABLE.sub(variable, value)
