"""Decoding JSON, much of it as fast as little. Says nothing of what is acceptable."""

import gc
import json
from typing import Any

LARGE_TEXT = 16_384

_plain = json.JSONDecoder()


def decode_json(text: str, decoder: json.JSONDecoder = _plain) -> Any:
    """What `text` stands for. Raises what `decoder` raises.

    A megabyte can hold 300,000 lists. While they are made, Python's collector
    looks again and again for cycles among them, which JSON cannot have; that
    takes several times what decoding does.
    """
    if len(text) < LARGE_TEXT or not gc.isenabled():
        return decoder.decode(text)
    gc.disable()
    try:
        return decoder.decode(text)
    finally:
        gc.enable()
