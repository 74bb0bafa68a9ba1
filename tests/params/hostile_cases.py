"""Schemas and params that mean harm, and a few that only look it: the list that is gone through.

Each case says what has to happen. REFUSED: the schema is not registered. VALID
and INVALID: it is, and the params get the verdict that JSON Schema demands.
STOPPED: it is, and the params are refused because checking them would take too
long.
"""

import json
import random
from dataclasses import dataclass
from typing import Any

REFUSED, VALID, INVALID, STOPPED = "refused", "valid", "invalid", "stopped"

LONG = 900_000
SHUFFLED = "".join(random.Random(1).choices("ab", k=300_000))
SHORT_PATTERNS = {chr(0x4E00 + number): True for number in range(4_500)}
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"


@dataclass(frozen=True)
class Case:
    name: str
    schema: Any
    params: Any
    expected: str


def on_a(schema: Any) -> Any:
    """A schema that demands this of the property `a`."""
    return {"properties": {"a": schema}}


def nested(opening: str, closing: str, levels: int, inmost: str = "{}") -> Any:
    return json.loads(opening * levels + inmost + closing * levels)


def chain(length: int, link: Any, last: Any) -> Any:
    """Definitions of which each refers to the next; `link` makes one from a reference."""
    definitions = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(length)}
    return {"$defs": {**definitions, f"d{length}": last}, "$ref": "#/$defs/d0"}


def pattern(name: str, text: str, value: str, expected: str) -> Case:
    return Case(f"pattern {name}", on_a({"pattern": text}), {"a": value}, expected)


def each_pattern_keyword(name: str, text: str, word: str) -> list[Case]:
    """The same pattern and a word that it does not match wherever a schema can run a pattern."""
    return [
        Case(
            f"{name} in patternProperties", {"patternProperties": {text: False}}, {word: 1}, VALID
        ),
        Case(
            f"{name} beside additionalProperties",
            {"patternProperties": {text: {}}, "additionalProperties": False},
            {word: 1},
            INVALID,
        ),
        Case(f"{name} in propertyNames", {"propertyNames": {"pattern": text}}, {word: 1}, INVALID),
        Case(f"{name} in not", on_a({"not": {"pattern": text}}), {"a": word}, VALID),
        Case(f"{name} in anyOf", on_a({"anyOf": [{"pattern": text}]}), {"a": word}, INVALID),
        Case(f"{name} in if", on_a({"if": {"pattern": text}, "then": False}), {"a": word}, VALID),
        Case(f"{name} in contains", on_a({"contains": {"pattern": text}}), {"a": [word]}, INVALID),
        Case(
            f"{name} in dependentSchemas",
            {"dependentSchemas": {"a": on_a({"pattern": text})}},
            {"a": word},
            INVALID,
        ),
        Case(
            f"{name} behind a reference",
            {"$defs": {"x": {"pattern": text}}, **on_a({"$ref": "#/$defs/x"})},
            {"a": word},
            INVALID,
        ),
        Case(
            f"{name} before unevaluatedProperties",
            {"allOf": [{"patternProperties": {text: {}}}], "unevaluatedProperties": False},
            {word: 1},
            INVALID,
        ),
    ]


PATTERNS = [
    pattern("nested plus", "^(a+)+$", "a" * 5_000 + "!", INVALID),
    pattern("nested plus that fits", "^(a+)+$", "a" * 5_000, VALID),
    pattern("nested star", "^(a*)*$", "a" * 5_000 + "!", INVALID),
    pattern("three stars deep", "^((a*)*)*$", "a" * 5_000 + "!", INVALID),
    pattern("overlapping alternatives", "^(a|a)*$", "a" * 5_000 + "!", INVALID),
    pattern("alternatives with a common part", "^(a|ab|b)*$", "ab" * 5_000 + "!", INVALID),
    pattern("optional alternatives", "^(a|a?)+$", "a" * 5_000 + "!", INVALID),
    pattern("many optionals", "^(a?){50}a{50}$", "a" * 50, VALID),
    pattern("many doubled letters", "^" + "(a|a)" * 200 + "$", "a" * 199 + "!", INVALID),
    pattern("ten stars in a row", "^" + "a*" * 10 + "$", "a" * 5_000 + "!", INVALID),
    pattern("dots in a row", "^" + ".*" * 10 + "x$", "a" * 5_000, INVALID),
    pattern("unanchored run of blanks", r"\s+$", " " * 50_000 + "x", INVALID),
    pattern("unanchored prefixes", "a*b?a*x", "a" * 50_000, INVALID),
    pattern(
        "evil e-mail", r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*@x$", "a" * 5_000, INVALID
    ),
    pattern("evil list of numbers", r"^(\d+,?)+$", "1" * 5_000 + "x", INVALID),
    pattern("evil words", r"^(\w+\s?)*$", "word " * 1_000 + "!", INVALID),
    pattern("empty loops", "^(|a)*(()*)*$", "a" * 500 + "!", INVALID),
    pattern("boundaries in a loop", r"^(\b\w+\b\W*)*$", "ab " * 2_000 + "\n!" + "ab", VALID),
    pattern("lookaheads side by side", r"^(?=.*[A-Z])(?=(a+)+!).{8,}$", "a" * 5_000, INVALID),
    pattern("counted in counted", "^((a{1,6}){1,6}){1,6}$", "a" * 215 + "!", INVALID),
    pattern("megabyte of text", "^(a|b|ab)*c$", "ab" * (LONG // 2), INVALID),
    pattern("megabyte of Chinese", "^[一-龥]+$", "字" * 150_000, VALID),
    pattern("every subset of positions", "(a|b)*a(a|b){200}c", SHUFFLED, STOPPED),
    pattern("backreference", r"^(a+)\1$", "aa", REFUSED),
    pattern("named backreference", r"^(?<x>a+)\k<x>$", "aa", REFUSED),
    pattern("lookahead in a loop", "^((?!ab).)*$", "a", REFUSED),
    pattern("long lookbehind", "(?<=ab+)c", "abc", REFUSED),
    pattern("conditional", "(a)?(?(1)b|c)", "ab", REFUSED),
    pattern("recursion", "(?R)", "a", REFUSED),
    pattern("comment", "(?#a)", "a", REFUSED),
    pattern("inline flag", "(?i)a", "A", REFUSED),
    pattern("counts multiplied", "^((a{100}){100}){100}$", "a", REFUSED),
    pattern("a count of billions", "a{1,4000000000}", "a", REFUSED),
    pattern("a count of a thousand digits", "a{1," + "9" * 1_000 + "}", "a", REFUSED),
    pattern("empty groups multiplied", "((((){1000}){1000}){1000}){1000}", "", REFUSED),
    pattern("groups nested deep", "(" * 5_000 + ")" * 5_000, "", REFUSED),
    pattern("groups never closed", "(" * 30_000, "", REFUSED),
    pattern("classes never closed", "[" * 30_000, "", REFUSED),
    pattern("halves of pairs", "\\ud800" * 5_000, "", REFUSED),
    pattern("sixty kilobytes of words", "|".join(f"w{n}" for n in range(8_000)), "w1", REFUSED),
    pattern(
        "a class of thousands", f"^[{''.join(map(chr, range(0x4E00, 0x8000, 2)))}]+$", "一", VALID
    ),
    pattern("braces never closed", "{" * 60_000, "x", REFUSED),
    pattern("braces closed once", "{" * 60_000 + "}", "x", REFUSED),
    pattern("newline at the end", r"^\d{4}$", "2020\n", INVALID),
    pattern("digits of other scripts", r"^\d+$", "٣", INVALID),
    Case(
        "a thousand patterns on a long text",
        on_a({"allOf": [{"pattern": f"{n}(a+)+$"} for n in range(1_000)]}),
        {"a": "a" * LONG},
        STOPPED,
    ),
    Case(
        "patterns that need many states together",
        on_a({"allOf": [{"pattern": f"[a-z]{{1,900}}{n}"} for n in range(50)]}),
        {"a": "a"},
        REFUSED,
    ),
    Case(
        "many names against many patterns",
        {"patternProperties": {f"^(a|b|ab)*{n}$": {} for n in range(300)}},
        {f"{'ab' * 10}{n}": 1 for n in range(20_000)},
        STOPPED,
    ),
    *each_pattern_keyword("nested plus", "^(a+)+$", "a" * 3_000 + "!"),
]

REFERENCES = [
    Case("http reference", {"$ref": "http://127.0.0.1:9/schema.json"}, {}, REFUSED),
    Case("https reference", on_a({"$ref": "https://example.com/s#/$defs/a"}), {}, REFUSED),
    Case("file reference", {"allOf": [{"$ref": "file:///etc/passwd"}]}, {}, REFUSED),
    Case("relative reference", {"$ref": "other.json"}, {}, REFUSED),
    Case("reference without scheme", {"$ref": "//example.com/s"}, {}, REFUSED),
    Case("ftp reference in not", {"not": {"$ref": "ftp://example.com/s"}}, {}, REFUSED),
    Case("data reference", {"$ref": "data:application/json,{}"}, {}, REFUSED),
    Case(
        "reference to a draft",
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {},
        REFUSED,
    ),
    Case(
        "own address",
        {"$id": "http://127.0.0.1:9/", "$ref": "#/$defs/a", "$defs": {"a": {}}},
        {},
        VALID,
    ),
    Case("reference by own address", {"$id": "http://x/", "$ref": "http://x/#"}, {}, REFUSED),
    Case("inner address", on_a({"$id": "http://127.0.0.1:9/x", "$ref": "#"}), {}, REFUSED),
    Case("unknown draft", {"$schema": "http://127.0.0.1:9/draft"}, {}, REFUSED),
    Case("draft that is a file", {"$schema": "file:///etc/passwd"}, {}, REFUSED),
    Case("draft that is a number", {"$schema": 7}, {}, REFUSED),
    Case(
        "another draft inside",
        on_a({"$schema": DRAFT_4, "pattern": "^(a+)+$"}),
        {"a": "a"},
        REFUSED,
    ),
    Case("the draft's own rules", {"$schema": DRAFT_7, "$ref": "#", "pattern": "x"}, {}, REFUSED),
    Case("reference to itself", {"$ref": "#"}, {}, REFUSED),
    Case("itself through allOf", {"allOf": [{"$ref": "#"}]}, {}, REFUSED),
    Case("itself through not", {"not": {"$ref": "#"}}, {}, REFUSED),
    Case("itself through if", {"if": {"$ref": "#"}}, {}, REFUSED),
    Case(
        "itself through dependentSchemas", {"dependentSchemas": {"a": {"$ref": "#"}}}, {}, REFUSED
    ),
    Case(
        "itself through dependencies",
        {"$schema": DRAFT_7, "dependencies": {"a": {"$ref": "#"}}},
        {},
        REFUSED,
    ),
    Case(
        "two that refer to each other",
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {},
        REFUSED,
    ),
    Case("cycle that nobody uses", {"$defs": {"a": {"$ref": "#/$defs/a"}}}, {}, REFUSED),
    Case("missing target", {"$ref": "#/$defs/gone"}, {}, REFUSED),
    Case("target in data", {"const": {"a": {"$ref": "#"}}, "$ref": "#/const/a"}, {}, REFUSED),
    Case("target is a list", {"allOf": [{}], "$ref": "#/allOf"}, {}, REFUSED),
    Case("target past the list", {"allOf": [{}], **on_a({"$ref": "#/allOf/7"})}, {}, REFUSED),
    Case("long index", {"allOf": [{}], **on_a({"$ref": "#/allOf/" + "9" * 9_000})}, {}, REFUSED),
    Case("anchor", {"$anchor": "a", **on_a({"$ref": "#a"})}, {}, REFUSED),
    Case("dynamic reference", {"$dynamicAnchor": "a", **on_a({"$dynamicRef": "#a"})}, {}, REFUSED),
    Case(
        "recursive reference", {"$schema": DRAFT_2019, **on_a({"$recursiveRef": "#"})}, {}, REFUSED
    ),
    Case("reference that is a number", {"$ref": 7}, {}, REFUSED),
    Case("a tree refers to itself", on_a({"$ref": "#"}), nested('{"a":', "}", 60), VALID),
    Case(
        "references that double",
        chain(30, lambda ref: {"allOf": [ref, ref]}, {"type": "object"}),
        {},
        REFUSED,
    ),
    Case(
        "references that double in anyOf",
        chain(30, lambda ref: {"anyOf": [ref, ref]}, {"type": "string"}),
        {},
        REFUSED,
    ),
    Case(
        "references that double in oneOf",
        chain(30, lambda ref: {"oneOf": [ref, ref]}, {"type": "string"}),
        {},
        REFUSED,
    ),
    Case(
        "references that double in not",
        chain(20, lambda ref: {"not": {"allOf": [ref, ref]}}, {}),
        {},
        VALID,
    ),
    Case(
        "references that double for unevaluatedProperties",
        {
            **chain(30, lambda ref: {"dependentSchemas": {"x": ref, "y": ref}}, {}),
            "unevaluatedProperties": False,
        },
        {"x": 1, "y": 1},
        REFUSED,
    ),
    Case("long chain of references", chain(1_500, lambda ref: ref, {}), {}, REFUSED),
    Case(
        "deep value times deep schema",
        {
            "$defs": {
                **{f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(60)},
                "d60": on_a({"$ref": "#"}),
            },
            "$ref": "#/$defs/d0",
        },
        nested('{"a":', "}", 60),
        STOPPED,
    ),
    Case(
        "two ways into every level",
        {**on_a({"$ref": "#"}), "patternProperties": {"a": {"$ref": "#"}}},
        nested('{"a":', "}", 60),
        STOPPED,
    ),
]

SIZES = [
    Case("sixty-three nots", nested('{"not":', "}", 60), {}, VALID),
    Case("schema nested too deep", nested('{"not":', "}", 70), {}, REFUSED),
    Case("properties nested too deep", nested('{"properties":{"a":', "}}", 40), {}, REFUSED),
    Case("data nested too deep", {"const": nested("[", "]", 70, "[]")}, {}, REFUSED),
    Case("schema over 64 KB", {"description": "x" * 70_000}, {}, REFUSED),
    Case("64 KB of text", {"description": "x" * 65_000}, {}, VALID),
    Case("thousands of subschemas", {"properties": {f"p{n}": {} for n in range(4_900)}}, {}, VALID),
    Case("too many subschemas", {"allOf": [True] * 9_000}, {}, REFUSED),
    Case("thousands of closed doors", {"anyOf": [False] * 4_900}, {"a": "x" * LONG}, INVALID),
    Case(
        "thousands of wrong types",
        {"anyOf": [{"type": "null"}] * 3_000},
        {"a": "x" * LONG},
        INVALID,
    ),
    Case("thousands of right types", {"oneOf": [{"type": "object"}] * 2_500}, {}, INVALID),
    Case(
        "a large value shown for each error",
        {"allOf": [{"required": ["b"]}] * 2_500},
        {"a": "x" * LONG},
        INVALID,
    ),
    Case(
        "errors without end",
        {"additionalProperties": {"type": "string"}},
        {f"p{n}": n for n in range(50_000)},
        INVALID,
    ),
    Case(
        "unknown names compared with known ones",
        {
            "properties": {f"{'a' * 25}{n}": {} for n in range(1_800)},
            "additionalProperties": False,
        },
        {f"{'a' * 26}{n}b": 1 for n in range(10_000)},
        INVALID,
    ),
    Case("a name of a megabyte", {"additionalProperties": False}, {"a" * LONG: 1}, INVALID),
    Case(
        "a name of a megabyte with many errors inside",
        {"additionalProperties": {"required": [f"r{n}" for n in range(2_000)]}},
        {"a" * LONG: {}},
        INVALID,
    ),
    Case(
        "names required by the thousand", {"required": [f"r{n}" for n in range(7_000)]}, {}, INVALID
    ),
    Case(
        "dependencies by the thousand",
        {"dependentRequired": {f"p{n}": ["x"] for n in range(3_500)}},
        {f"p{n}": 1 for n in range(3_500)},
        INVALID,
    ),
    Case(
        "an enum of thousands for thousands of values",
        on_a({"items": {"enum": [f"k{n}" for n in range(6_000)]}}),
        {"a": ["k5999"] * 80_000},
        VALID,
    ),
    Case(
        "an enum of lists for thousands of values",
        on_a({"items": {"enum": [[[[n]]] for n in range(5_000)]}}),
        {"a": [[[[4_999]]]] * 30_000},
        STOPPED,
    ),
    Case("an enum of everything", on_a({"enum": [[1], {"b": 1.0}]}), {"a": {"b": 1}}, VALID),
    Case("true is not one", on_a({"enum": [1]}), {"a": True}, INVALID),
    Case(
        "two hundred thousand numbers",
        on_a({"items": {"type": "integer"}}),
        {"a": [1] * 200_000},
        VALID,
    ),
    Case("a megabyte of empty lists", {}, {"a": [[]] * 240_000}, VALID),
    Case(
        "conditions in conditions",
        nested('{"if":{"required":["b"]},"else":', "}", 58),
        {},
        VALID,
    ),
    Case(
        "every item against every form",
        on_a({"items": {"anyOf": [{"const": n} for n in range(2_000)]}}),
        {"a": [1_999] * 50_000},
        STOPPED,
    ),
    Case(
        "containing a hundred times",
        on_a({"allOf": [{"contains": {"type": "string"}, "maxContains": 1}] * 500}),
        {"a": [1] * 100_000},
        STOPPED,
    ),
    Case(
        "unevaluated items of a hundred branches",
        on_a(
            {
                "unevaluatedItems": False,
                "allOf": [{"contains": {"type": "integer"}, "minContains": 0}] * 100,
            }
        ),
        {"a": [1] * 100_000},
        STOPPED,
    ),
    Case(
        "thousands of patterns for the names of objects that have none",
        on_a({"items": {"patternProperties": SHORT_PATTERNS}}),
        {"a": [{}] * 20_000},
        STOPPED,
    ),
    Case(
        "thousands of patterns that say what of nothing was looked at",
        on_a(
            {
                "items": {
                    "anyOf": [True, {"patternProperties": SHORT_PATTERNS}],
                    "unevaluatedProperties": False,
                }
            }
        ),
        {"a": [{}] * 20_000},
        STOPPED,
    ),
]

UNIQUENESS = [
    Case(
        "fifteen thousand different objects",
        on_a({"uniqueItems": True}),
        {"a": [{"b": n} for n in range(15_000)]},
        VALID,
    ),
    Case(
        "the last object twice",
        on_a({"uniqueItems": True}),
        {"a": [*({"b": [n]} for n in range(10_000)), {"b": [9_999]}]},
        INVALID,
    ),
    Case(
        "a hundred thousand different kinds",
        on_a({"uniqueItems": True}),
        {"a": [*range(50_000), *map(str, range(50_000))]},
        VALID,
    ),
    Case("one and one", on_a({"uniqueItems": True}), {"a": [1, 1.0]}, INVALID),
    Case("one and true", on_a({"uniqueItems": True}), {"a": [1, True, 0, False, None, "1"]}, VALID),
    Case(
        "keys in another order",
        on_a({"uniqueItems": True}),
        {"a": [{"x": 1, "y": 2}, {"y": 2, "x": 1}]},
        INVALID,
    ),
    Case(
        "unique at every level",
        {
            "$defs": {"u": {"uniqueItems": True, "items": {"$ref": "#/$defs/u"}}},
            **on_a({"$ref": "#/$defs/u"}),
        },
        {"a": nested("[", "]", 55, json.dumps(list(range(5_000))))},
        VALID,
    ),
    Case(
        "numbers whose hashes collide",
        on_a({"uniqueItems": True}),
        {"a": [n * (1 << 45) for n in range(25_000)]},
        VALID,
    ),
    Case("objects in required", {"required": [{"a": n} for n in range(4_000)]}, {}, REFUSED),
    Case(
        "different objects in an enum of draft 4",
        {"$schema": DRAFT_4, **on_a({"enum": [{"b": n} for n in range(5_000)]})},
        {"a": {"b": 4_999}},
        VALID,
    ),
    Case(
        "objects in dependencies of draft 7",
        {"$schema": DRAFT_7, "dependencies": {"a": [{"b": n} for n in range(4_000)]}},
        {},
        REFUSED,
    ),
]

NUMBERS = [
    Case("the largest over the smallest", on_a({"multipleOf": 1e-300}), {"a": 1e308}, VALID),
    Case("over the least there is", on_a({"multipleOf": 5e-324}), {"a": 1.7e308}, VALID),
    Case("the least over the largest", on_a({"multipleOf": 1.7e308}), {"a": 5e-324}, INVALID),
    Case("a price", on_a({"multipleOf": 0.01}), {"a": 19.99}, VALID),
    Case("not a price", on_a({"multipleOf": 0.01}), {"a": 19.995}, INVALID),
    Case("over nothing", on_a({"multipleOf": 0}), {"a": 1}, REFUSED),
    Case("over less than nothing", on_a({"multipleOf": -1}), {"a": 1}, REFUSED),
    Case(
        "thousands over the smallest",
        on_a({"items": {"multipleOf": 1e-300}}),
        {"a": [1e308] * 100_000},
        STOPPED,
    ),
    Case(
        "a length of billions",
        on_a({"minLength": 10**18, "maxLength": 10**18}),
        {"a": "x"},
        INVALID,
    ),
    Case("a count below nothing", on_a({"minItems": -1}), {"a": []}, REFUSED),
    Case("bounds past doubles", on_a({"maximum": 2**63 - 1}), {"a": 9.3e18}, INVALID),
    Case("a length of infinity", on_a({"maxLength": 1e308}), {"a": "x"}, VALID),
]

SHAPES = [
    Case("type that is no type", {"type": "strin"}, {}, REFUSED),
    Case("type that is an object", {"type": {"a": 1}}, {}, REFUSED),
    Case("types by the thousand", {"type": ["string"] * 5_000}, {}, REFUSED),
    Case("properties that are a list", {"properties": [{}]}, {}, REFUSED),
    Case("pattern that is a list", {"pattern": ["a"]}, {}, REFUSED),
    Case("patternProperties that are text", {"patternProperties": "a"}, {}, REFUSED),
    Case("allOf that is empty", {"allOf": []}, {}, REFUSED),
    Case("items that are a number", {"items": 7}, {}, REFUSED),
    Case("enum that is text", {"enum": "abc"}, {}, REFUSED),
    Case("required with one name twice", {"required": ["a", "a"]}, {}, REFUSED),
    Case("format that is an object", {"format": {}}, {}, REFUSED),
    Case(
        "properties named like keywords",
        on_a({"properties": {"$ref": {"type": "null"}}}),
        {"a": {"$ref": 1}},
        INVALID,
    ),
    Case(
        "a reference in data",
        on_a({"const": {"$ref": "http://127.0.0.1:9/"}}),
        {"a": {"$ref": "http://127.0.0.1:9/"}},
        VALID,
    ),
    Case(
        "a keyword nobody knows", {"__class__": {"__init__": "os.system"}}, {"__class__": 1}, VALID
    ),
    Case(
        "names from Python",
        {"properties": {"__proto__": {"type": "null"}}},
        {"__proto__": 1},
        INVALID,
    ),
]

FORMATS = [
    Case(
        f"format {name} of a megabyte of {text}",
        on_a({"format": name}),
        {"a": text * (LONG // len(text))},
        INVALID,
    )
    for name, text in (
        ("email", "a"),
        ("email", "@"),
        ("date-time", "1"),
        ("duration", "1"),
        ("hostname", "a."),
        ("ipv4", "1."),
        ("ipv6", ":"),
        ("uri", "a"),
        ("uuid", "0"),
    )
] + [
    Case(
        "format uri of a megabyte that fits",
        on_a({"format": "uri"}),
        {"a": "x:" + "a" * LONG},
        VALID,
    ),
    Case(
        "format uri a thousand times",
        on_a({"allOf": [{"format": "uri"}] * 2_000}),
        {"a": "x:" + "a" * LONG},
        STOPPED,
    ),
    Case(
        "thousands of addresses that are none",
        on_a({"items": {"not": {"format": "ipv6"}}}),
        {"a": ["1:2:3:4:5:6:7:1.2.3.400"] * 35_000},
        VALID,
    ),
]

ORDINARY = [
    pattern("of a video", "^[A-Za-z0-9_-]{11}$", "dQw4w9WgXcQ", VALID),
    pattern("of a web address", "^https?://.+$", "https://example.com/a?b=c", VALID),
    pattern("of a date", r"^\d{4}-\d{2}-\d{2}$", "2026-01-31", VALID),
    pattern("of a slug", "^[a-z]+(-[a-z]+)*$", "a-plain-slug", VALID),
    pattern("of a slug with a flaw", "^[a-z]+(-[a-z]+)*$", "a--slug", INVALID),
    pattern("of a number", r"^-?\d+\.?\d*$", "-12.50", VALID),
    pattern("of a password", r"^(?=.*[A-Z])(?=.*\d)(?!.*\s).{8,}$", "Passw0rds", VALID),
    pattern("of an e-mail", r"^[^@\s]+@[^@\s]+\.[^@\s]+$", "someone@example.com", VALID),
    pattern("of a colour", "^#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", "#a1B2c3", VALID),
    pattern("of a version", r"^v?(\d+)\.(\d+)\.(\d+)(?:-([\w.-]+))?$", "v1.2.3-rc.1", VALID),
    pattern("of a year by name", r"^(?<year>\d{4})$", "2026", VALID),
    pattern("that may stand anywhere", "foo|bar", "a bar", VALID),
    Case(
        "an order",
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {
                "line": {
                    "type": "object",
                    "properties": {
                        "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
                        "count": {"type": "integer", "minimum": 1},
                    },
                    "required": ["sku", "count"],
                    "additionalProperties": False,
                }
            },
            "properties": {
                "customer": {"type": "string", "format": "email"},
                "priority": {"enum": ["low", "high"]},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1},
            },
            "required": ["customer", "lines"],
        },
        {
            "customer": "someone@example.com",
            "priority": "high",
            "lines": [{"sku": "ABC-1234", "count": 2}] * 1_000,
        },
        VALID,
    ),
]

CASES = [
    *PATTERNS,
    *REFERENCES,
    *SIZES,
    *UNIQUENESS,
    *NUMBERS,
    *SHAPES,
    *FORMATS,
    *ORDINARY,
]
