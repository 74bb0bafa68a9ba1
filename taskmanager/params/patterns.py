r"""Translates the patterns of ECMA 262, which JSON Schema uses, for the engines of jsonschema-rs.

Owns the syntax: what a pattern means, what is refused, and how much work a
character can cause. Matching is the engine's. Characters and classes are written
out as code points, so that both engines read them the same way and `\d`, `\w`,
`\s` and `.` keep their meaning in ECMA 262.

A pattern without lookarounds is matched in one pass over the text. One with
lookarounds is matched by an engine that counts the steps it takes back and gives
up after MAX_STEPS_BACK; lookaheads after the first `^` need no steps back.
"""

import re
import string
from typing import NamedTuple

MAX_GROUPS_DEEP = 50
MAX_COUNT = 1_000
MAX_STATES = 2_000
MAX_STEPS_BACK = 2_000
_LAST_CODE_POINT = 0x10FFFF


class PatternRefused(Exception):
    """The message finishes the sentence 'The pattern …' and says what to write instead."""


class Translation(NamedTuple):
    """A pattern for the linear engine, None where it has lookarounds, and for the one that counts.

    `busy` is the most states that a character of a text can keep active.
    `steps_back` is whether the engine that counts may have to take steps back.
    """

    linear: str | None
    counted: str
    states: int
    busy: int
    steps_back: bool


class _Piece(NamedTuple):
    """A part of a pattern, translated.

    `busy` is how many of its states can be active at a time when it is entered
    once. `length` is how many characters it matches, None where that varies.
    """

    text: str
    states: int
    busy: int
    length: int | None
    is_start: bool = False

    @property
    def is_character(self) -> bool:
        return self.states == self.length == 1


def translate(pattern: str) -> Translation:
    """Raises PatternRefused."""
    reader = _Reader(pattern)
    piece = reader.choice(0)
    if reader.place < len(pattern):
        raise PatternRefused("has a ) that closes nothing; write \\) for the character")
    if piece.states > MAX_STATES:
        raise PatternRefused(_TOO_LARGE)
    # Without a ^ a match may begin at each character, so all states may be active.
    busy = max(piece.busy if piece.is_start else piece.states, 1)
    text = piece.text
    return Translation(
        None if reader.has_lookarounds else text.replace("\0b", _BOUNDARY).replace("\0B", _INSIDE),
        text.replace("\0b", _COUNTED_BOUNDARY).replace("\0B", _COUNTED_INSIDE),
        piece.states,
        busy,
        reader.steps_back or "\0" in text,
    )


_TOO_LARGE = (
    f"has more than {MAX_STATES} parts once its counts are written out; limit the length with "
    "maxLength and write * or + instead of a large count, and use enum for a long list of words"
)
_LOOK_REFUSED = (
    "looks ahead or behind at more than one character, which is possible only directly after a ^ "
    'that begins the pattern; use "allOf" or "not" with a pattern of its own'
)
_UNKNOWN_ESCAPE = "uses \\{}, which JSON Schema does not know"
_REFUSED_ESCAPES = {
    **dict.fromkeys(
        "123456789k",
        "refers back to what a group matched (\\{}), which cannot be matched in bounded time; "
        "write the alternatives out",
    ),
    **dict.fromkeys(
        "pP",
        "uses \\p, which is not supported; write the characters as ranges, such as [A-Za-zÀ-ÿ]",
    ),
    "A": _UNKNOWN_ESCAPE + "; write ^",
    **dict.fromkeys("Zz", _UNKNOWN_ESCAPE + "; write $"),
    **dict.fromkeys("xu", "has a \\{} without the hexadecimal digits of a character"),
    "c": "has a \\c without a letter after it",
}
# The engines know the boundaries of Unicode, ECMA 262 those of ASCII. \0 marks one until the
# engine is known.
_W = "[0-9A-Za-z_]"
_COUNTED_BOUNDARY = f"(?:(?<={_W})(?!{_W})|(?<!{_W})(?={_W}))"
_COUNTED_INSIDE = f"(?:(?<={_W})(?={_W})|(?<!{_W})(?!{_W}))"
_BOUNDARY, _INSIDE = r"(?-u:\b)", r"(?-u:\B)"

# What stands in a class for an escape.
_CLASSES = {
    "d": "0-9",
    "D": r"\x00-\x2F\x3A-\x{10FFFF}",
    "w": "0-9A-Za-z_",
    "W": r"\x00-\x2F\x3A-\x40\x5B-\x5E\x60\x7B-\x{10FFFF}",
    "s": r"\x09-\x0D\x20\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF",
    "S": r"\x00-\x08\x0E-\x1F\x21-\x9F\xA1-\u167F\u1681-\u1FFF\u200B-\u2027\u202A-\u202E"
    r"\u2030-\u205E\u2060-\u2FFF\u3001-\uFEFE\uFF00-\x{10FFFF}",
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_HEX = "[0-9A-Fa-f]"
_HIGH, _LOW = f"[Dd][89ABab]{_HEX}{{2}}", f"[Dd][C-Fc-f]{_HEX}{{2}}"  # of a surrogate pair
_CODE_POINT = re.compile(
    rf"u({_HIGH})\\u({_LOW})|u(?!{_HIGH}\\u)({_HEX}{{4}})"
    rf"|u\{{(0?{_HEX}{{1,5}}|10{_HEX}{{4}})\}}|x({_HEX}{{2}})"
)
_ASSERTION = re.compile(r"[$^]|\\[bB]|\(\?<?[=!]")
_GROUP = re.compile(r"\((?:\?:|\?<[^\W\d]\w*>)?")
# *, {3}, {3,}, {3,5}, and {,5}, which is refused. Possessive: no digit is looked at twice.
_QUANTIFIER = re.compile(r"([*+?])|\{(?=[0-9]|,[0-9])([0-9]*+)(,?+)([0-9]*+)\}")


def _range(low: int, high: int) -> str:
    """A part of a class. Text holds no surrogates, and the engines refuse to name them."""
    low = 0xE000 if 0xD800 <= low < 0xE000 else low
    high = 0xD7FF if 0xD800 <= high < 0xE000 else high
    if low > high:
        return ""
    return _code_point(low) + (f"-{_code_point(high)}" if high > low else "")


def _code_point(number: int) -> str:
    return f"\\x{number:02X}" if number < 128 and not chr(number).isalnum() else chr(number)


def _one_of(members: str, *, is_inverted: bool = False) -> _Piece:
    if not members:  # nothing, or [^] for all
        members, is_inverted = _range(0, _LAST_CODE_POINT), not is_inverted
    return _Piece(f"[{'^' if is_inverted else ''}{members}]", 1, 1, 1)


def _sequence(parts: list[_Piece]) -> _Piece:
    if len(parts) == 1:
        return parts[0]
    busy, varies = 0, False
    for part in parts:
        # After a part whose length varies, the next one may be entered at each character.
        busy = busy + part.states if varies else max(busy, part.busy)
        varies = varies or part.length is None
    return _Piece(
        "".join(part.text for part in parts),
        sum(part.states for part in parts),
        busy,
        None if varies else sum(part.length or 0 for part in parts),
        is_start=bool(parts) and parts[0].is_start,
    )


def _choice(options: list[_Piece]) -> _Piece:
    text = "|".join(option.text for option in options)
    if all(option.is_character for option in options):  # the engines make one class of them
        return _Piece(text, 1, 1, 1)
    lengths = {option.length for option in options}
    return _Piece(
        text,
        1 + sum(option.states for option in options),
        1 + sum(option.busy for option in options),
        lengths.pop() if len(lengths) == 1 else None,
        is_start=all(option.is_start for option in options),
    )


def _repeated(body: _Piece, least: int, most: int | None) -> _Piece:
    states = (1 + body.states) * (max(least, 1) if most is None else most)
    if body.length == 0 or most == 0:  # what matches nothing but the empty text
        return body._replace(states=states) if least else _Piece("", states, 0, 0)
    return _Piece(
        f"{body.text}{{{least},{'' if most is None else most}}}",
        states,
        states if body.length is None else body.busy,
        body.length * least if body.length is not None and least == most else None,
    )


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.place = 0
        self.atoms = 0
        self.has_lookarounds = False
        self.steps_back = False
        self.has_long_lookahead = False

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.place)

    def take(self, text: str) -> bool:
        is_next = self.peek(text)
        self.place += len(text) * is_next
        return is_next

    def match(self, expression: re.Pattern[str]) -> re.Match[str] | None:
        found = expression.match(self.pattern, self.place)
        self.place = found.end() if found else self.place
        return found

    def next(self) -> str:
        if self.place >= len(self.pattern):
            raise PatternRefused("ends in the middle of a group, class or escape")
        self.place += 1
        return self.pattern[self.place - 1]

    def choice(self, depth: int) -> _Piece:
        if depth > MAX_GROUPS_DEEP:
            raise PatternRefused(f"nests groups more than {MAX_GROUPS_DEEP} deep")
        options = [self.sequence(depth)]
        while self.take("|"):
            options.append(self.sequence(depth))
        if len(options) == 1:
            return options[0]
        if depth == 0 and self.has_long_lookahead:
            raise PatternRefused(_LOOK_REFUSED)
        return _choice(options)

    def sequence(self, depth: int) -> _Piece:
        parts: list[_Piece] = []
        while self.place < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            if found := self.match(_ASSERTION):
                parts.append(self.assertion(found[0], depth, parts))
            else:
                parts.append(self.quantified(self.atom(depth)))
        return _sequence(parts)

    def assertion(self, opening: str, depth: int, before: list[_Piece]) -> _Piece:
        if opening.startswith("("):
            piece = self.lookaround(opening, depth, before)
        else:
            piece = _Piece(opening.replace("\\", "\0"), 1, 1, 0, is_start=opening == "^")
        if self.quantifier():
            raise PatternRefused("repeats an assertion, which means nothing; leave the count out")
        return piece

    def lookaround(self, opening: str, depth: int, before: list[_Piece]) -> _Piece:
        body = self.closed(depth)
        texts = [part.text for part in before]
        if opening == "(?!" and texts[-1:] == ["$"] and body.is_character:
            return _Piece("", 0, 0, 0)  # nothing follows the end
        is_leading = depth == 0 and texts[:1] == ["^"] and "<" not in opening
        if not (is_leading and all(text.startswith(("(?=", "(?!")) for text in texts[1:])):
            if not body.is_character:
                raise PatternRefused(_LOOK_REFUSED)
            self.steps_back = True
        self.has_lookarounds = True
        self.has_long_lookahead = self.has_long_lookahead or not body.is_character
        return _Piece(f"{opening}{body.text})", body.states, body.busy, 0)

    def closed(self, depth: int) -> _Piece:
        body = self.choice(depth + 1)
        if not self.take(")"):
            raise PatternRefused("has a ( that is not closed; write \\( for the character")
        return body

    def quantified(self, atom: _Piece) -> _Piece:
        counts = self.quantifier()
        if counts is None:
            return atom
        self.take("?")  # greedy or not makes no difference to whether a text matches
        if self.quantifier():
            raise PatternRefused("repeats a repetition, as in a++ or a**; put a group around it")
        return _repeated(atom, *counts)

    def quantifier(self) -> tuple[int, int | None] | None:
        found = self.match(_QUANTIFIER)
        if found is None:
            return None  # no brace, or an ordinary one
        sign, least, comma, most = found.groups()
        if sign:
            return int(sign == "+"), 1 if sign == "?" else None
        if least == "":
            raise PatternRefused(f"has the count {{,{most}}}; write {{0,{most}}}")
        low, high = (int(count.lstrip("0")[:20] or 0) for count in (least, most or least))
        if max(low, high) > MAX_COUNT:
            raise PatternRefused(
                f"repeats up to {max(low, high)} times; the limit is {MAX_COUNT}. Limit the length "
                "with maxLength and write * or +"
            )
        if low > high:
            raise PatternRefused("has a count whose first number is the larger one")
        return low, None if comma and not most else high

    def atom(self, depth: int) -> _Piece:
        self.atoms += 1
        if self.atoms > MAX_STATES:
            raise PatternRefused(_TOO_LARGE)
        if found := self.match(_GROUP):
            if found[0] == "(" and self.peek("?"):
                opening = self.pattern[self.place : self.place + 2]
                raise PatternRefused(
                    f"uses ({opening}…), which JSON Schema does not know; groups are (…), (?:…) "
                    "and (?<name>…), and both cases of a letter are written [Aa]"
                )
            body = self.closed(depth)
            return body._replace(text=f"(?:{body.text})")
        if self.take("["):
            return self.char_class()
        if self.take("."):
            return _one_of(r"\n\r\u2028\u2029", is_inverted=True)
        if (sign := self.pattern[self.place]) in "*+?":
            raise PatternRefused(f"has a {sign} with nothing before it to repeat")
        text, code_point = self.member()
        return _Piece(text, 1, 1, 1) if text and code_point else _one_of(text)

    def char_class(self) -> _Piece:
        is_inverted = self.take("^")
        members = ""
        while not self.take("]"):
            text, low = self.member(in_class=True)
            if self.peek("-") and not self.peek("-]"):
                self.place += 1
                other, high = self.member(in_class=True)
                if low is None or high is None:  # as in [\w-.]: the hyphen stands for itself
                    text += _code_point(ord("-")) + other
                elif low > high:
                    raise PatternRefused("has a range whose first character comes after its last")
                else:
                    text = _range(low, high)
            members += text
        return _one_of(members, is_inverted=is_inverted)

    def member(self, *, in_class: bool = False) -> tuple[str, int | None]:
        """What stands for a character in a class, and its code point where it is only one."""
        if in_class and self.take("\\b"):
            code_point = 8
        elif not self.take("\\"):
            code_point = ord(self.next())
        elif found := self.match(_CODE_POINT):
            pair, digits = (found[1] or "") + (found[2] or ""), found[found.lastindex or 0]
            code_point = ord(bytes.fromhex(pair).decode("utf-16-be")) if pair else int(digits, 16)
        else:
            character = self.next()
            if character in _CLASSES:
                return _CLASSES[character], None
            code_point = self.escaped(character)
        return _range(code_point, code_point), code_point

    def escaped(self, character: str) -> int:
        if character == "c" and self.pattern[self.place : self.place + 1] in string.ascii_letters:
            return ord(self.next()) % 32
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character.isascii() and (character.isalnum() or character == "_"):
            message = _REFUSED_ESCAPES.get(character, _UNKNOWN_ESCAPE)
            raise PatternRefused(message.format(character))
        return ord(character)
