"""The settings of alerts: thresholds, addresses and the mail server."""

import pytest

from taskmanager.alert_rules import RULES, parse_thresholds
from taskmanager.config import load_settings
from taskmanager.errors import ConfigurationError
from taskmanager.mail_server import MailServer, parse_mail_server


def test_a_threshold_that_is_not_named_keeps_its_default() -> None:
    found = parse_thresholds(" oldest_pending = 7200 ,failure_share=off,database_size=500.5, ")
    assert found.values == {name: rule.default for name, rule in RULES.items()} | {
        "oldest_pending": 7_200,
        "failure_share": None,
        "database_size": 500.5,
    }
    assert str(found) == "oldest_pending=7200, failure_share=off, database_size=500.5"
    assert parse_thresholds(str(found)) == found
    assert "failure_share" not in [rule.name for rule, _ in found.rules()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("oldest=60", "did you mean oldest_pending?"),
        ("xyz=1", "the rules are no_worker, "),
        ("no_worker", "a number of seconds above 0 or off, as in no_worker=900"),
        ("no_worker=0", "a number of seconds above 0 or off"),
        ("no_worker=nan", "a number of seconds above 0 or off"),
        ("no_worker=1e99", "a number of seconds above 0 or off"),
        ("failure_share=5", "a share from 0 to 1 above 0 or off, as in failure_share=0.1"),
        ("webhook_off=3", "webhook_off=on or webhook_off=off"),
        ("database_size=lots", "a number of MB above 0 or off, as in database_size=500"),
    ],
)
def test_what_is_wrong_with_a_threshold_is_said_at_the_start(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={"TASKMANAGER_ALERT_RULES": text})
    assert said in refused.value.message


def test_addresses_are_checked() -> None:
    found = load_settings(environ={"TASKMANAGER_ALERT_EMAIL": "a@b.org, c+d@e"})
    assert found.alert_email == ("a@b.org", "c+d@e")
    for wrong in ("me", "Me <me@b.org>", "a@b.org\nBcc: x@y", "a b@c", "ä@b.org"):
        with pytest.raises(ConfigurationError, match="mail addresses"):
            load_settings(environ={"TASKMANAGER_ALERT_EMAIL": wrong})


def test_a_mail_server_is_read_in_full() -> None:
    assert parse_mail_server("") == MailServer(host="localhost", port=25)
    assert parse_mail_server("smtps://me%40b.org:p%40%2F%3A@mail.b.org?from=q@b.org") == MailServer(
        host="mail.b.org",
        port=465,
        is_tls=True,
        user="me@b.org",
        password="p@/:",
        sender="q@b.org",
    )
    assert parse_mail_server("smtp://mail.b.org:2525/?starttls=off").starttls == "off"


@pytest.mark.parametrize(
    "text",
    [
        *("mail.b.org", "http://b.org", "smtp://", "smtp://b.org:99999", "smtp://b.org/inbox"),
        *("smtp://b.org?from=Me <q@b.org>", "smtp://b.org?from=q@b.org%0ABcc:x", "smtp://[b"),
        *("smtp://b.org?starttls=maybe", "smtp://b.org?tls=1", "smtp://u:p@b.org#x"),
    ],
)
def test_what_is_no_mail_server_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={"TASKMANAGER_SMTP_URL": text})
    assert refused.value.message.startswith(
        "TASKMANAGER_SMTP_URL is set but must be smtp://user:password@host:587 or smtps://"
    )
