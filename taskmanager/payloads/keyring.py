"""The keys of TASKMANAGER_PAYLOAD_KEY: sealing with the first one, opening with all.

The encryption is Fernet of the library `cryptography`: AES-128-CBC with a random IV, authenticated
by HMAC-SHA256 (https://github.com/fernet/spec). See docs/decisions/0034.
"""

import hashlib
import hmac
from collections.abc import Sequence

from taskmanager.errors import ConfigurationError

# The first byte of a Fernet token is 0x80, and its time is 32 bits in 64.
PREFIX = "gAAAA"


def key_id(key: str) -> str:
    """What a key is called in the database: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


class Keyring:
    """The keys of one application. `current` is the id of the one that seals.

    `secret` makes dedupe keys: it stays the same when keys are rotated. keys_in_use.py sets it.
    """

    secret: bytes = b""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` is not empty. Raises ConfigurationError without the library."""
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ImportError:
            raise ConfigurationError(
                "TASKMANAGER_PAYLOAD_KEY needs the package cryptography: "
                "pip install 'cryptography>=42'. Without it, leave the setting empty."
            ) from None
        self.ids = tuple(key_id(key) for key in keys)
        self.current = self.ids[0]
        self._all = MultiFernet([Fernet(key) for key in keys])
        self._not_ours = InvalidToken

    def seal(self, text: str) -> str:
        """The text, encrypted with the first key."""
        return self._all.encrypt(text.encode("utf-8", "surrogatepass")).decode()

    def open(self, text: str) -> str:
        """What was sealed with one of the keys; any other text as it is."""
        if not text.startswith(PREFIX):
            return text
        try:
            return self._all.decrypt(text).decode("utf-8", "surrogatepass")
        except self._not_ours:
            return text

    def hide_key(self, dedupe_key: str) -> str:
        """A dedupe key that does not show what it is of to anybody without the secret."""
        return hmac.new(self.secret, dedupe_key.encode(), hashlib.sha256).hexdigest()
