"""Decoding JSON gives what json.loads() gives, and leaves the collector of garbage as it was."""

import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

from taskmanager.api.requests import LARGE_TEXT, decode_json

SMALL, LARGE = '{"a": [1, 2.5]}', "[" + "[]," * LARGE_TEXT + "[]]"


class Watching(json.JSONDecoder):
    """Notes whether the collector is on while it decodes."""

    def decode(self, text: str) -> Any:  # type: ignore[override]
        self.collects = gc.isenabled()
        return super().decode(text)


@pytest.fixture(autouse=True)
def _collector_is_on_afterwards() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize(("text", "collects"), [(SMALL, True), (LARGE, False)])
def test_a_large_text_is_decoded_without_looking_for_cycles(text: str, collects: bool) -> None:
    decoder = Watching()
    assert decode_json(text, decoder) == json.loads(text) == decode_json(text)
    assert decoder.collects is collects
    assert gc.isenabled()


@pytest.mark.parametrize("text", [SMALL, LARGE])
def test_what_is_no_json_leaves_the_collector_on(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        decode_json(text + "x")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    decode_json(LARGE)
    assert not gc.isenabled()
