"""The dedupe key: fixed examples, and the rule that equal JSON values have equal keys."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskmanager.queue.dedupe import POLICIES, canonical_json, dedupe_key, held_keys

# Type, params, requested key, and the bytes that SHA-256 is taken of, written out by hand.
EXAMPLES: list[tuple[str, Any, str | None, bytes]] = [
    ("job", {}, None, b"job\x00{}"),
    ("job", {"b": 1, "a": 2}, None, b'job\x00{"a":2,"b":1}'),
    ("job", {"z": {"d": [3, {"y": 1, "x": 2}], "c": None}}, None,
     b'job\x00{"z":{"c":null,"d":[3,{"x":2,"y":1}]}}'),
    ("Job", {"n": 1.0, "m": -0.0, "f": 1.5}, None, b'Job\x00{"f":1.5,"m":0,"n":1}'),
    ("job", {"é": "🦄"}, None, b'job\x00{"\xc3\xa9":"\xf0\x9f\xa6\x84"}'),
    ("job", {"t": True, "one": 1, "text": "1"}, None, b'job\x00{"one":1,"t":true,"text":"1"}'),
    ("job", {"ignored": 1}, "order 7", b'job\x00"order 7"'),
    ("job", {"quote": '"\\\n'}, None, b'job\x00{"quote":"\\"\\\\\\n"}'),
]  # fmt: skip


@pytest.mark.parametrize(("type_name", "params", "requested", "hashed"), EXAMPLES)
def test_the_key_is_the_sha256_of_name_nul_and_canonical_json(
    type_name: str, params: Any, requested: str | None, hashed: bytes
) -> None:
    key = dedupe_key(type_name=type_name, params=params, requested_key=requested)
    assert key == hashlib.sha256(hashed).hexdigest()


def test_the_key_of_a_known_task_never_changes_between_releases() -> None:
    # printf 'youtube_video_scrape\0{"deep":true,"video_id":"dQw4w9WgXcQ"}' | sha256sum
    key = dedupe_key(
        type_name="youtube_video_scrape", params={"video_id": "dQw4w9WgXcQ", "deep": True}
    )
    assert key == "564df2aba13f3e97b4c35e14f18f369cf58aa49048d3a18fb792c46c97a40991"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcé🦄", max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


def _reversed(value: Any) -> Any:
    """The same JSON value with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {name: _reversed(item) for name, item in reversed(value.items())}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


def _with_floats(value: Any) -> Any:
    """The same JSON value with every small whole number written with a fraction."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53:
        return float(value)
    if isinstance(value, dict):
        return {name: _with_floats(item) for name, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_order_of_keys_and_spelling_of_whole_numbers_do_not_matter(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(_reversed(value)) == text
    assert canonical_json(_with_floats(value)) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": 0}, {"a": None}),
        ({"a": 1}, {"A": 1}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": 1.5}, {"a": 1}),
        ({"a": 9007199254740993}, {"a": 9007199254740992}),
        ({"a": {}}, {"a": []}),
        ({"a": "e\u0301"}, {"a": "é"}),
    ],
)
def test_different_values_have_different_keys(one: Any, other: Any) -> None:
    assert dedupe_key(type_name="t", params=one) != dedupe_key(type_name="t", params=other)


def test_the_name_of_the_type_cannot_be_confused_with_the_params() -> None:
    assert dedupe_key(type_name="a", params={}) != dedupe_key(type_name="a{}", params={})
    assert dedupe_key(type_name="a", params={}) != dedupe_key(type_name="A", params={})


def test_a_requested_key_cannot_equal_the_text_of_any_params() -> None:
    asked = dedupe_key(type_name="a", params={"x": 1}, requested_key="{}")
    assert asked != dedupe_key(type_name="a", params={})


def test_numbers_that_are_no_json_have_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_each_policy_holds_its_key_as_long_as_it_says() -> None:
    held = {policy: tuple(held_keys(policy).values()) for policy in POLICIES}
    assert held == {"forever": (1, 1), "active": (None, 1), "none": (None, None)}
