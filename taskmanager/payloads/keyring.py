"""The keys of TASKMANAGER_PAYLOAD_KEY, and encrypting with one of them.

The encryption is AES-256-GCM (NIST SP 800-38D) of the library `cryptography`. A text can only be
decrypted for the place that it was encrypted for. See docs/decisions/0035.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Sequence

from taskmanager.errors import ConfigurationError, PayloadUnreadable

NONCE_BYTES = 12  # NIST SP 800-38D, 5.2.1.1


def key_id(key: str) -> str:
    """What a key is called in the database: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


class Key:
    """One key. A place is any text that names a column and a row and never changes."""

    def __init__(self, key: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.id = key_id(key)
        given = base64.urlsafe_b64decode(key)
        self._cipher = AESGCM(hmac.digest(given, b"taskmanager payload encryption", "sha256"))

    def seal(self, text: str, place: str) -> str:
        """The text, encrypted for a place."""
        nonce = os.urandom(NONCE_BYTES)
        content = text.encode("utf-8", "surrogatepass")
        encrypted = nonce + self._cipher.encrypt(nonce, content, place.encode())
        return base64.b64encode(encrypted).decode()

    def open(self, text: str, place: str) -> str:
        """What was sealed for the place. Raises PayloadUnreadable for any other text."""
        from cryptography.exceptions import InvalidTag

        try:
            content = base64.b64decode(text, validate=True)
            nonce, encrypted = content[:NONCE_BYTES], content[NONCE_BYTES:]
            opened = self._cipher.decrypt(nonce, encrypted, place.encode())
        except (ValueError, InvalidTag):
            raise PayloadUnreadable(
                f"{place} cannot be decrypted with the payload key {self.id}: it was damaged, or "
                "changed or moved outside TaskManager. Restore the row from a backup."
            ) from None
        return opened.decode("utf-8", "surrogatepass")


class Keyring:
    """The keys of one application. `current` is the one for what is new.

    `secret` makes dedupe keys: it stays the same when keys are rotated. keys_in_use.py sets it.
    """

    secret: bytes = b""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys` is not empty. Raises ConfigurationError without the library."""
        try:
            self._keys = {key_id(key): Key(key) for key in keys}
        except ImportError:
            raise ConfigurationError(
                "TASKMANAGER_PAYLOAD_KEY needs the package cryptography: "
                "pip install 'cryptography>=42'. Without it, leave the setting empty."
            ) from None
        self.ids = tuple(self._keys)
        self.current = self._keys[self.ids[0]]

    def find(self, name: str) -> Key:
        """The key with this id. Raises PayloadUnreadable."""
        if name not in self._keys:
            raise PayloadUnreadable(
                f"TASKMANAGER_PAYLOAD_KEY lacks the key {name}, which encrypted this. Add it "
                "after a comma, and restart.",
                code="no_payload_key",
            )
        return self._keys[name]

    def hide_key(self, dedupe_key: str) -> str:
        """A dedupe key that does not show what it is of to anybody without the secret."""
        return hmac.new(self.secret, dedupe_key.encode(), hashlib.sha256).hexdigest()
