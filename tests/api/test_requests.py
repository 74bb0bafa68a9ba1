"""Strict JSON, read without a request."""

from typing import Any

import pytest

from taskmanager.api.requests import MAX_DEPTH, RequestBody, parse_json
from taskmanager.errors import InvalidRequest, ValidationFailed


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a": [1, -0.5, true, null, "x"]}', {"a": [1, -0.5, True, None, "x"]}),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1e308", 1e308),
        (b"1e-999", 0.0),
        ('"🦄 \\ud83e\\udd84 é"'.encode(), "🦄 🦄 é"),
        (b'"\\\\u0000"', "\\u0000"),
        (b' \n\t"x" ', "x"),
    ],
)
def test_json_is_read_exactly(raw: bytes, value: Any) -> None:
    assert parse_json(raw) == value


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"{", "malformed_json"),
        (b"{'a': 1}", "malformed_json"),
        (b'{"a": 1,}', "malformed_json"),
        (b"[1] [2]", "malformed_json"),
        (b"NaN", "malformed_json"),
        (b"[Infinity]", "malformed_json"),
        (b'{"a": -Infinity}', "malformed_json"),
        (b"\xff", "malformed_json"),
        (b'"\xed\xa0\x80"', "malformed_json"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "malformed_json"),
        (b'"\x00"', "malformed_json"),
        (b'"tab\there"', "malformed_json"),
        (b"9223372036854775808", "number_out_of_range"),
        (b"-9223372036854775809", "number_out_of_range"),
        (b"1" * 100_000, "number_out_of_range"),
        (b"1e999", "number_out_of_range"),
        (b"-1e999", "number_out_of_range"),
        (b'{"a": "\\u0000"}', "unstorable_text"),
        (b'{"\\u0000": 1}', "unstorable_text"),
        (b'[["\\ud800"]]', "unstorable_text"),
        (b'{"\\udfff": 1}', "unstorable_text"),
    ],
)
def test_what_no_database_could_give_back_is_refused(raw: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_json(raw)
    assert refused.value.code == code


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_the_depth_of_nesting_has_a_limit(opening: bytes, closing: bytes) -> None:
    innermost = b"null" if opening != b"[" else b""

    def nested(levels: int) -> bytes:
        return opening * levels + innermost + closing * levels

    assert parse_json(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 100, 10_000, 100_000):
        with pytest.raises(InvalidRequest) as refused:
            parse_json(nested(levels))
        assert refused.value.code == "nested_too_deep"


def test_many_brackets_side_by_side_are_not_depth() -> None:
    assert len(parse_json(b"[" + b",".join([b"[]"] * 5_000) + b"]")) == 5_000
    assert parse_json(b'"' + b"[{" * 10_000 + b'"') == "[{" * 10_000


BODY = RequestBody(
    required=("name", "size", "colour"),
    name={"type": "string"},
    size={"type": "integer"},
    colour={"type": ["integer", "null"]},
    weight={"type": "number"},
)


def test_a_whole_number_written_with_a_fraction_becomes_an_integer() -> None:
    body = BODY.check({"name": "x", "size": 2.0, "colour": 3.0, "weight": 4.0})
    assert [type(body[field]) for field in ("size", "colour", "weight")] == [int, int, float]


def test_each_problem_is_listed_once() -> None:
    with pytest.raises(ValidationFailed) as refused:
        BODY.check({"nane": "x", "weight": "heavy"})
    details = refused.value.details
    assert isinstance(details, list)
    found = sorted((problem["path"], problem["keyword"]) for problem in details)
    assert found == [
        ("colour", "required"),
        ("name", "required"),
        ("nane", "additionalProperties"),
        ("size", "required"),
        ("weight", "type"),
    ]
    assert "did you mean 'name'?" in str(details)
    assert "(and 4 more, see details)" in refused.value.message
