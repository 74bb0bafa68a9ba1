"""Signatures of Standard Webhooks (https://www.standardwebhooks.com). Stores no secrets."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

_PREFIX = "whsec_"
_SECRET_BYTES = 24  # the specification asks for 24 to 64


def new_secret() -> str:
    """A random secret, in the form that receivers' libraries take: `whsec_` and base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(
    *, message_id: str, timestamp: int, body: bytes, secrets: Sequence[str]
) -> dict[str, str]:
    """The three headers of a message. `timestamp` is in Unix seconds.

    Each secret adds a signature, so that a receiver can verify with the old or the new secret
    during a rotation.
    """
    message = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(secret, message) for secret in secrets),
    }


def _signature(secret: str, message: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return "v1," + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
