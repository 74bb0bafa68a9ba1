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
from collections.abc import Iterable
from typing import NamedTuple

MAX_GROUPS_DEEP = 50
MAX_COUNT = 1_000
MAX_STATES = 2_000
MAX_STEPS_BACK = 2_000
_LAST_CODE_POINT = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]


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

    `length` is how many characters it matches, None where that varies. `busy` is
    how many of its states can be active at a time when it is entered once.
    `ranges` are set where it is one character.
    """

    text: str
    states: int
    busy: int
    length: int | None
    ranges: Ranges | None = None
    is_assertion: bool = False
    is_lookahead: bool = False
    is_start: bool = False


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
# The engines know the boundaries of Unicode, ECMA 262 those of ASCII.
_W = "[0-9A-Za-z_]"
_COUNTED_BOUNDARY = f"(?:(?<={_W})(?!{_W})|(?<!{_W})(?={_W}))"
_COUNTED_INSIDE = f"(?:(?<={_W})(?={_W})|(?<!{_W})(?!{_W}))"
_BOUNDARY, _INSIDE = r"(?-u:\b)", r"(?-u:\B)"

_DIGITS: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = (
    *((9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
_REFUSED_ESCAPES = {
    "k": "refers back to what a group matched (\\k), which cannot be matched in bounded time; "
    "write the alternatives out",
    "p": "uses \\p, which is not supported; write the characters as ranges, such as [A-Za-zÀ-ÿ]",
    "A": "uses \\A, which JSON Schema does not know; write ^",
    "Z": "uses \\Z, which JSON Schema does not know; write $",
    "z": "uses \\z, which JSON Schema does not know; write $",
}
_REFUSED_ESCAPES["P"] = _REFUSED_ESCAPES["p"]


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _inverted(ranges: Ranges) -> Ranges:
    gaps, start = [], 0
    for low, high in ranges:
        if start < low:
            gaps.append((start, low - 1))
        start = high + 1
    return (*gaps, (start, _LAST_CODE_POINT)) if start <= _LAST_CODE_POINT else tuple(gaps)


def _one_of(ranges: Ranges) -> _Piece:
    """One character. Text holds no surrogates, and the engines refuse to name them."""
    parts: list[tuple[int, int]] = []
    for low, high in ranges:
        parts += [(low, min(high, 0xD7FF)), (max(low, 0xE000), high)]
    text = "".join(
        _code_point(low) + (f"-{_code_point(high)}" if high > low else "")
        for low, high in parts
        if low <= high
    )
    is_single = len(ranges) == 1 and ranges[0][0] == ranges[0][1] and text
    in_class = f"[{text}]" if text else "[^\\x00-\U0010ffff]"
    return _Piece(text if is_single else in_class, 1, 1, 1, ranges)


def _code_point(number: int) -> str:
    return f"\\x{number:02X}" if number < 128 and not chr(number).isalnum() else chr(number)


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


def _repeated(body: _Piece, least: int, most: int | None) -> _Piece:
    copies = max(least, 1) if most is None else most
    states = (1 + body.states) * copies
    if body.length == 0 or most == 0:  # what matches nothing but the empty text
        return body._replace(states=states) if least else _Piece("", states, 0, 0)
    count = f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"
    return _Piece(
        (f"(?:{body.text})" if body.ranges is None else body.text) + count,
        states,
        states if body.length is None else body.busy,
        body.length * least if body.length is not None and least == most else None,
    )


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.place = 0
        self.has_lookarounds = False
        self.steps_back = False
        self.has_long_lookahead = False

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.place)

    def take(self, text: str) -> bool:
        if not self.peek(text):
            return False
        self.place += len(text)
        return True

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
            if len(options) > MAX_STATES:
                raise PatternRefused(_TOO_LARGE)
        if len(options) == 1:
            return options[0]
        if depth == 0 and self.has_long_lookahead:
            raise PatternRefused(_LOOK_REFUSED)
        if all(option.ranges is not None for option in options):
            return _one_of(_merged(r for option in options for r in option.ranges or ()))
        lengths = {option.length for option in options}
        return _Piece(
            f"(?:{'|'.join(option.text for option in options)})",
            1 + sum(option.states for option in options),
            1 + sum(option.busy for option in options),
            lengths.pop() if len(lengths) == 1 else None,
            is_start=all(option.is_start for option in options),
        )

    def sequence(self, depth: int) -> _Piece:
        parts: list[_Piece] = []
        while self.place < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            parts.append(self.quantified(self.atom(depth, parts)))
            if len(parts) > MAX_STATES:
                raise PatternRefused(_TOO_LARGE)
        return _sequence(parts)

    def quantified(self, atom: _Piece) -> _Piece:
        counts = self.quantifier()
        if counts is None:
            return atom
        if atom.is_assertion:
            raise PatternRefused("repeats an assertion, which means nothing; leave the count out")
        self.take("?")  # greedy or not makes no difference to whether a text matches
        if self.quantifier() or self.peek("+"):
            raise PatternRefused("repeats a repetition, as in a++ or a**; put a group around it")
        return _repeated(atom, *counts)

    def quantifier(self) -> tuple[int, int | None] | None:
        if self.take("*"):
            return 0, None
        if self.take("+"):
            return 1, None
        if self.take("?"):
            return 0, 1
        found = _COUNTS.match(self.pattern, self.place)
        if found is None:
            return None  # no brace, or an ordinary one
        least, comma, most = found.groups()
        if least == "":
            raise PatternRefused(f"has the count {{,{most}}}; write {{0,{most}}}")
        self.place = found.end()
        counts = (_count(least), _count(most) if most else None if comma else _count(least))
        if counts[1] is not None and counts[0] > counts[1]:
            raise PatternRefused("has a count whose first number is the larger one")
        return counts

    def atom(self, depth: int, before: list[_Piece]) -> _Piece:
        character = self.next()
        if character == "(":
            return self.group(depth, before)
        if character == "[":
            return _one_of(self.char_class())
        if character == ".":
            return _one_of(_inverted(_LINE_ENDS))
        if character in "^$":
            return _START if character == "^" else _END
        if character in "*+?":
            raise PatternRefused(f"has a {character} with nothing before it to repeat")
        if character == "\\":
            if self.peek("b") or self.peek("B"):
                return _Piece(f"\0{self.next()}", 1, 1, 0, is_assertion=True)
            return _one_of(self.escape())
        return _one_of(_single(ord(character)))

    def group(self, depth: int, before: list[_Piece]) -> _Piece:
        for opening in ("?=", "?!", "?<=", "?<!"):
            if self.take(opening):
                return self.lookaround(opening, depth, before)
        if self.take("?<"):
            end = self.pattern.find(">", self.place)
            if end < 0 or not self.pattern[self.place : end].isidentifier():
                raise PatternRefused("has a group whose name is not closed, as in (?<year>…)")
            self.place = end + 1
        elif self.peek("?") and not self.take("?:"):
            opening = self.pattern[self.place : self.place + 2]
            raise PatternRefused(
                f"uses ({opening}…), which JSON Schema does not know; groups are (…), (?:…) and "
                "(?<name>…), and both cases of a letter are written [Aa]"
            )
        body = self.closed(depth)
        # An assertion may be repeated when it stands in a group.
        return body._replace(text=f"(?:{body.text})", is_assertion=False, is_lookahead=False)

    def lookaround(self, opening: str, depth: int, before: list[_Piece]) -> _Piece:
        body = self.closed(depth)
        is_leading = (
            opening in ("?=", "?!")
            and depth == 0
            and before[:1] == [_START]
            and all(part.is_lookahead for part in before[1:])
        )
        if opening == "?!" and before[-1:] == [_END] and body.ranges is not None:
            return _Piece("", 0, 0, 0, is_assertion=True)  # nothing follows the end
        if not is_leading:
            if body.ranges is None:
                raise PatternRefused(_LOOK_REFUSED)
            self.steps_back = True
        self.has_lookarounds = True
        self.has_long_lookahead = self.has_long_lookahead or body.ranges is None
        return _Piece(
            f"({opening}{body.text})",
            body.states,
            body.busy,
            0,
            is_assertion=True,
            is_lookahead=is_leading,
        )

    def closed(self, depth: int) -> _Piece:
        body = self.choice(depth + 1)
        if not self.take(")"):
            raise PatternRefused("has a ( that is not closed; write \\( for the character")
        return body

    def char_class(self) -> Ranges:
        is_inverted = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self.class_member()
            if self.peek("-") and not self.peek("-]") and self.place + 1 < len(self.pattern):
                self.place += 1
                high = self.class_member()
                if not (_is_single(low) and _is_single(high)):
                    # As in [\w-.]: the hyphen stands for itself.
                    ranges += [*low, (45, 45), *high]
                    continue
                if low > high:
                    raise PatternRefused("has a range whose first character comes after its last")
                ranges.append((low[0][0], high[0][0]))
            else:
                ranges += low
        return _inverted(_merged(ranges)) if is_inverted else _merged(ranges)

    def class_member(self) -> Ranges:
        character = self.next()
        if character != "\\":
            return _single(ord(character))
        return _single(8) if self.take("b") else self.escape()

    def escape(self) -> Ranges:
        character = self.next()
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            return _inverted(ranges) if character.isupper() else ranges
        if character in "123456789":
            raise PatternRefused(
                f"refers back to what a group matched (\\{character}), which cannot be matched in "
                "bounded time; write the alternatives out"
            )
        if character == "c":
            letter = self.next()
            if not (letter.isascii() and letter.isalpha()):
                raise PatternRefused("has a \\c without a letter after it")
            return _single(ord(letter) % 32)
        if character in _CONTROLS:
            return _single(_CONTROLS[character])
        if character in "xu":
            return _single(self.code_point(character))
        if character.isascii() and (character.isalpha() or character == "_"):
            raise PatternRefused(
                _REFUSED_ESCAPES.get(
                    character, f"uses \\{character}, which JSON Schema does not know"
                )
            )
        return _single(ord(character))

    def code_point(self, kind: str) -> int:
        if kind == "u" and self.take("{"):
            value = self.hexadecimal(self.pattern.find("}", self.place) - self.place, kind)
            self.place += 1
        else:
            value = self.hexadecimal(2 if kind == "x" else 4, kind)
        if value > _LAST_CODE_POINT:
            raise PatternRefused("names a character past U+10FFFF")
        if 0xD800 <= value < 0xDC00 and self.take("\\u"):
            low = self.hexadecimal(4, kind)
            if not 0xDC00 <= low < 0xE000:
                raise PatternRefused("has half of a surrogate pair (\\ud800 to \\udfff)")
            return 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00)
        return value

    def hexadecimal(self, length: int, kind: str) -> int:
        digits = self.pattern[self.place : self.place + max(length, 0)]
        self.place += len(digits)
        if not 0 < len(digits) == length <= 6 or not _HEX.issuperset(digits):
            raise PatternRefused(f"has a \\{kind} without the hexadecimal digits of a character")
        return int(digits, 16)


_START = _Piece("^", 1, 1, 0, is_assertion=True, is_start=True)
_END = _Piece("$", 1, 1, 0, is_assertion=True)
_HEX = frozenset("0123456789abcdefABCDEF")
# {3}, {3,}, {3,5}, and {,5}, which is refused. Possessive: no digit is looked at twice.
_COUNTS = re.compile(r"\{(?=[0-9]|,[0-9])([0-9]*+)(,?+)([0-9]*+)\}")


def _count(text: str) -> int:
    value = int(text) if len(text) <= 9 else MAX_COUNT + 1
    if value > MAX_COUNT:
        raise PatternRefused(
            f"repeats up to {text[:20]} times; the limit is {MAX_COUNT}. Limit the length with "
            "maxLength and write * or +"
        )
    return value


def _single(code_point: int) -> Ranges:
    return ((code_point, code_point),)


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
