"""Regular expressions as JSON Schema means them (ECMA 262), read into a tree.

Owns the syntax and says what is refused; `pattern_matching` runs the tree.
Refused is what no automaton can run (a backreference), and what other languages
know but ECMA 262 does not, so that a pattern means the same to every reader of
the schema.
"""

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAX_GROUPS_DEEP = 50
MAX_COUNT = 1_000
LAST_CODE_POINT = 0x10FFFF


class PatternRefused(Exception):
    """The message finishes the sentence 'The pattern …' and says what to write instead."""


@dataclass(frozen=True, slots=True)
class CharSet:
    """Characters as sorted, separate ranges of code points, both ends included."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> "CharSet":
        merged: list[tuple[int, int]] = []
        for low, high in sorted(ranges):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        return cls(tuple(merged))

    def inverted(self) -> "CharSet":
        gaps, start = [], 0
        for low, high in self.ranges:
            if start < low:
                gaps.append((start, low - 1))
            start = high + 1
        if start <= LAST_CODE_POINT:
            gaps.append((start, LAST_CODE_POINT))
        return CharSet(tuple(gaps))

    def __contains__(self, code_point: int) -> bool:
        place = bisect.bisect_right(self.ranges, (code_point, LAST_CODE_POINT)) - 1
        return place >= 0 and code_point <= self.ranges[place][1]


class Sequence(NamedTuple):
    parts: tuple["Node", ...]


class Choice(NamedTuple):
    options: tuple["Node", ...]


class Repeat(NamedTuple):
    """`most` is None where there is no end to it. Lazy or greedy makes no difference here."""

    body: "Node"
    least: int
    most: int | None


class Edge(NamedTuple):
    """The beginning of the text, or its end."""

    is_start: bool


class Neighbour(NamedTuple):
    """Whether the next (or the previous) character belongs to a set; none at the text's edges."""

    chars: CharSet
    is_ahead: bool
    is_wanted: bool


class Boundary(NamedTuple):
    r"""`\b`, or `\B` where it is not wanted."""

    is_wanted: bool


class Look(NamedTuple):
    """A lookahead or lookbehind over more than one character."""

    body: "Node"
    is_ahead: bool
    is_wanted: bool


Node = CharSet | Sequence | Choice | Repeat | Edge | Neighbour | Boundary | Look
_ASSERTIONS = (Edge, Neighbour, Boundary, Look)

DIGITS = CharSet(((48, 57),))
WORD = CharSet(((48, 57), (65, 90), (95, 95), (97, 122)))
_SPACES = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"
SPACE = CharSet.of([(0x2000, 0x200A), *((ord(space), ord(space)) for space in _SPACES)])
ANY = CharSet.of([(10, 10), (13, 13), (0x2028, 0x2029)]).inverted()
_CLASSES = {"d": DIGITS, "w": WORD, "s": SPACE}
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


def parse(pattern: str) -> Node:
    """The tree of `pattern`. Raises PatternRefused."""
    reader = _Reader(pattern)
    tree = reader.choice(0)
    if reader.place < len(pattern):
        raise PatternRefused("has a ) that closes nothing; write \\) for the character")
    return tree


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.place = 0

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

    def choice(self, depth: int) -> Node:
        if depth > MAX_GROUPS_DEEP:
            raise PatternRefused(f"nests groups more than {MAX_GROUPS_DEEP} deep")
        options = [self.sequence(depth)]
        if not self.peek("|"):
            return options[0]
        while self.take("|"):
            options.append(self.sequence(depth))
        if all(isinstance(option, CharSet) for option in options):
            return CharSet.of(r for option in options for r in option.ranges)  # type: ignore[union-attr]
        return Choice(tuple(options))

    def sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self.place < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            atom = self.atom(depth)
            parts.append(self.quantified(atom))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def quantified(self, atom: Node) -> Node:
        counts = self.quantifier()
        if counts is None:
            return atom
        if isinstance(atom, _ASSERTIONS):
            raise PatternRefused("repeats an assertion, which means nothing; leave the count out")
        self.take("?")
        if self.quantifier() or self.peek("+"):
            raise PatternRefused("repeats a repetition, as in a++ or a**; put a group around it")
        return Repeat(atom, *counts)

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

    def atom(self, depth: int) -> Node:
        character = self.next()
        if character == "(":
            return self.group(depth)
        if character == "[":
            return self.char_class()
        if character == ".":
            return ANY
        if character in "^$":
            return Edge(character == "^")
        if character in "*+?":
            raise PatternRefused(f"has a {character} with nothing before it to repeat")
        if character == "\\":
            if self.take("b"):
                return Boundary(True)
            if self.take("B"):
                return Boundary(False)
            return self.escape()
        return _one(ord(character))

    def group(self, depth: int) -> Node:
        for opening, is_ahead, is_wanted in (
            ("?=", True, True),
            ("?!", True, False),
            ("?<=", False, True),
            ("?<!", False, False),
        ):
            if self.take(opening):
                body = self.closed(depth)
                if isinstance(body, CharSet):
                    return Neighbour(body, is_ahead, is_wanted)
                return Look(body, is_ahead, is_wanted)
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
        return self.closed(depth)

    def closed(self, depth: int) -> Node:
        body = self.choice(depth + 1)
        if not self.take(")"):
            raise PatternRefused("has a ( that is not closed; write \\( for the character")
        # An assertion may be repeated when it stands in a group.
        return Sequence((body,)) if isinstance(body, _ASSERTIONS) else body

    def char_class(self) -> CharSet:
        is_inverted = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self.class_member()
            if self.peek("-") and not self.peek("-]") and self.place + 1 < len(self.pattern):
                self.place += 1
                high = self.class_member()
                if not (_is_one(low) and _is_one(high)):
                    # As in [\w-.]: the hyphen stands for itself.
                    ranges += [*low.ranges, (45, 45), *high.ranges]
                    continue
                if low.ranges > high.ranges:
                    raise PatternRefused("has a range whose first character comes after its last")
                ranges.append((low.ranges[0][0], high.ranges[0][0]))
            else:
                ranges += low.ranges
        chars = CharSet.of(ranges)
        return chars.inverted() if is_inverted else chars

    def class_member(self) -> CharSet:
        character = self.next()
        if character != "\\":
            return _one(ord(character))
        return _one(8) if self.take("b") else self.escape()

    def escape(self) -> CharSet:
        character = self.next()
        if character.lower() in _CLASSES:
            chars = _CLASSES[character.lower()]
            return chars.inverted() if character.isupper() else chars
        if character in "123456789":
            raise PatternRefused(
                f"refers back to what a group matched (\\{character}), which cannot be matched in "
                "bounded time; write the alternatives out"
            )
        if character == "c":
            letter = self.next()
            if not (letter.isascii() and letter.isalpha()):
                raise PatternRefused("has a \\c without a letter after it")
            return _one(ord(letter) % 32)
        if character in _CONTROLS:
            return _one(_CONTROLS[character])
        if character in "xu":
            return _one(self.code_point(character))
        if character.isascii() and (character.isalpha() or character == "_"):
            raise PatternRefused(
                _REFUSED_ESCAPES.get(
                    character, f"uses \\{character}, which JSON Schema does not know"
                )
            )
        return _one(ord(character))

    def code_point(self, kind: str) -> int:
        if kind == "u" and self.take("{"):
            value = self.hexadecimal(self.pattern.find("}", self.place) - self.place, kind)
            self.place += 1
        else:
            value = self.hexadecimal(2 if kind == "x" else 4, kind)
        if value > LAST_CODE_POINT:
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


def _one(code_point: int) -> CharSet:
    return CharSet(((code_point, code_point),))


def _is_one(chars: CharSet) -> bool:
    return len(chars.ranges) == 1 and chars.ranges[0][0] == chars.ranges[0][1]
