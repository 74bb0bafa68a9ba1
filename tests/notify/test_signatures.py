"""Signatures, verified by the public library of Standard Webhooks."""

import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from taskmanager.notify.signatures import new_secret, signed_headers

BODY = b'{"type": "task.completed"}'


def test_receiver_verifies_with_the_old_and_the_new_secret_during_a_rotation():
    secrets = [new_secret(), new_secret()]
    headers = signed_headers(
        message_id="msg_1", timestamp=int(time.time()), body=BODY, secrets=secrets
    )
    for secret in secrets:
        assert Webhook(secret).verify(BODY, headers) == {"type": "task.completed"}
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers)


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp"])
def test_signature_covers_id_time_and_body(changed):
    secret, now = new_secret(), int(time.time())
    headers = signed_headers(message_id="msg_1", timestamp=now, body=BODY, secrets=[secret])
    body = BODY + b" " if changed == "body" else BODY
    headers |= {
        "webhook-id": {"webhook-id": "msg_2"},
        "webhook-timestamp": {"webhook-timestamp": str(now - 1)},
    }.get(changed, {})
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)
