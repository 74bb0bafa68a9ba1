"""Mails to a real SMTP server: with and without TLS and login, and what is said if it refuses."""

import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import pytest

from taskmanager.alerts import messages
from taskmanager.alerts.mail import send_mail
from taskmanager.alerts.messages import Message
from taskmanager.mail_server import MailServer, parse_mail_server
from taskmanager.notify.sending import NotSent
from tests.alerts.conftest import PASSWORD, USER, Mailbox, authenticator
from tests.support.commands import run_command

# It is what the tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

LOGIN = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@"
WRONG = f"{quote(USER, safe='')}:wrong@"
TO = ("me@example.org", "you@example.org")
MESSAGE = Message("[TaskManager] Zpráva", "Fronta čeká.\n.\nEnd", ())


def send(url: str, *, to: tuple[str, ...] = TO, seconds: float = 15) -> str:
    return send_mail(MESSAGE, server=parse_mail_server(url), recipients=to, seconds=seconds)


def refusal(url: str, **options: Any) -> str:
    with pytest.raises(NotSent) as refused:
        send(url, **options)
    assert PASSWORD not in str(refused.value)
    return str(refused.value)


def test_a_mail_arrives_whole_and_the_answer_is_returned(mailbox: Mailbox) -> None:
    answer = send(mailbox.url(options="?from=queue@example.org"))
    assert answer == "250 2.0.0 Ok: queued as 4711"
    [mail] = mailbox.mails
    assert mail["Subject"] == MESSAGE.subject
    assert (mail["From"], mail["To"]) == ("queue@example.org", ", ".join(TO))
    assert mail.get_content().splitlines() == MESSAGE.text.splitlines()
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"].endswith("@example.org>")
    assert mail["Date"]
    assert mailbox.recipients == [list(TO)]


def test_it_comes_from_the_user_or_from_the_first_recipient(mailbox: Mailbox) -> None:
    send(mailbox.url())
    assert mailbox.mails[0]["From"] == TO[0]
    assert MailServer(user=USER).sender_to(TO[0]) == USER


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Mailbox]]:
    """Starts mail servers with the options of aiosmtpd's Controller."""
    running: list[Mailbox] = []

    def start(**options: Any) -> Mailbox:
        running.append(Mailbox(**options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def guarded(make: Callable[..., Mailbox], tls: ssl.SSLContext) -> Mailbox:
    """Wants STARTTLS and then a password."""
    options = {"auth_required": True, "authenticator": authenticator}
    return make(tls_context=tls, require_starttls=True, **options)


@pytest.mark.usefixtures("trusted")
def test_after_starttls_the_password_is_sent(guarded: Mailbox) -> None:
    assert send(guarded.url(login=LOGIN, options="?starttls=required")).startswith("250")
    assert guarded.mails[0]["From"] == USER
    said = refusal(guarded.url(login=WRONG, options="?starttls=required"))
    assert "refused the user or the password: 535" in said
    assert "wrong" not in said


@pytest.mark.usefixtures("trusted")
def test_tls_from_the_first_byte_on(make: Callable[..., Mailbox], tls: ssl.SSLContext) -> None:
    options = {"auth_required": True, "authenticator": authenticator, "auth_require_tls": False}
    server = make(ssl_context=tls, **options)
    assert send(server.url("smtps", login=LOGIN)).startswith("250")
    assert "refused the user" in refusal(server.url("smtps", login=WRONG))


def test_a_certificate_that_nobody_signed_is_refused(
    make: Callable[..., Mailbox], tls: ssl.SSLContext, guarded: Mailbox
) -> None:
    server = make(ssl_context=tls)
    for url in (server.url("smtps"), guarded.url(login=LOGIN, options="?starttls=required")):
        assert "The certificate of the mail server is not valid: self" in refusal(url)
    assert server.mails == guarded.mails == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name_is_refused(
    make: Callable[..., Mailbox], tls: ssl.SSLContext
) -> None:
    server = make(ssl_context=tls)
    said = refusal(server.url("smtps").replace("127.0.0.1", "localhost"))
    assert "The certificate of the mail server is not valid" in said


def own_address() -> str:
    """An address of this machine that is not its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        try:
            found.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("This machine has no address but its loopback")
        return str(found.getsockname()[0])


def test_a_password_is_never_sent_in_the_clear_to_another_machine(
    make: Callable[..., Mailbox],
) -> None:
    options = {"auth_required": True, "authenticator": authenticator, "auth_require_tls": False}
    server = make(address="0.0.0.0", **options)
    url = server.url(login=LOGIN).replace("127.0.0.1", own_address())
    assert "offers no encryption, so the password was not sent" in refusal(url)
    assert send(f"{url}?starttls=off").startswith("250")
    assert send(server.url(login=LOGIN)).startswith("250")  # on this machine there is no need


def test_another_machine_is_encrypted_to_where_it_offers_it(
    make: Callable[..., Mailbox], tls: ssl.SSLContext
) -> None:
    server = make(address="0.0.0.0", tls_context=tls)
    url = server.url().replace("127.0.0.1", own_address())
    assert "The certificate of the mail server is not valid" in refusal(url)
    assert send(f"{url}?starttls=off").startswith("250")


def test_what_a_server_refuses_is_said(mailbox: Mailbox, make: Callable[..., Mailbox]) -> None:
    said = refusal(mailbox.url(), to=("me@example.org", mailbox.refused))
    expected = "The mail server refused the recipient nobody@example.org: 550 5.1.1 "
    assert said == f"{expected}nobody@example.org is unknown here"
    assert mailbox.mails == []
    mailbox.answer = "554 5.7.1 This looks like spam"
    assert (
        refusal(mailbox.url()) == "The mail server refused the mail: 554 5.7.1 This looks like spam"
    )
    assert "offers no STARTTLS" in refusal(mailbox.url(options="?starttls=required"))
    assert "offers no" in refusal(mailbox.url(login=LOGIN))  # nor a way to log in


def test_a_server_that_is_not_there_is_said(mailbox: Mailbox) -> None:
    mailbox.stop()
    assert "Nothing takes the connection there" in refusal(mailbox.url())
    assert "cannot be resolved" in refusal("smtp://mail.invalid:2525")
    mailbox.start()
    assert "TLS failed. Is it a port for smtps://" in refusal(mailbox.url("smtps"))


@pytest.mark.parametrize("said", [b"", b"220 ready\r\n"])
def test_a_server_that_says_nothing_is_given_up(said: bytes) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        taken: list[socket.socket] = []

        def take() -> None:
            peer, _ = listening.accept()
            peer.sendall(said)
            taken.append(peer)

        thread = threading.Thread(target=take)
        thread.start()
        url = f"smtp://127.0.0.1:{listening.getsockname()[1]}"
        assert "gave no answer in time" in refusal(url, seconds=0.3)
        thread.join()
        taken[0].close()


def test_a_server_that_answers_a_byte_at_a_time_is_cut_off() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def answer_slowly() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"220 ready\r\n")
                try:
                    while True:
                        peer.sendall(b"2")
                        threading.Event().wait(0.05)
                except OSError:
                    return

        thread = threading.Thread(target=answer_slowly)
        thread.start()
        url = f"smtp://127.0.0.1:{listening.getsockname()[1]}"
        assert "gave no answer in time" in refusal(url, seconds=0.5)
        thread.join()


def test_a_server_that_repeats_the_password_does_not_get_it_into_an_error(
    mailbox: Mailbox,
) -> None:
    plain = b64encode(f"\0\0{PASSWORD}".encode()).decode()
    mailbox.answer = f"554 not with {PASSWORD} or {plain}"
    server = MailServer(host="127.0.0.1", port=mailbox.port, password=PASSWORD)
    with pytest.raises(NotSent) as refused:
        send_mail(MESSAGE, server=server, recipients=TO, seconds=15)
    assert str(refused.value) == "The mail server refused the mail: 554 not with *** or ***"
    assert PASSWORD not in repr(parse_mail_server(f"smtp://{LOGIN}mail.example.org"))


def test_a_short_password_is_not_looked_for_in_our_own_words(mailbox: Mailbox) -> None:
    mailbox.stop()
    server = MailServer(host="127.0.0.1", port=mailbox.port, user="u", password="p")
    with pytest.raises(NotSent, match="Is the port right"):
        send_mail(MESSAGE, server=server, recipients=TO, seconds=15)
    mailbox.start()


def test_the_command_prints_what_the_server_answered(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKMANAGER_ALERT_EMAIL", ",".join(TO))
    monkeypatch.setenv("TASKMANAGER_SMTP_URL", mailbox.url())
    done = run_command("alerts", "test")
    said = "email: sent. The server answered 250 2.0.0 Ok: queued as 4711\n"
    assert (done.exit_code, done.output) == (0, said)
    assert mailbox.mails[0]["Subject"] == messages.test_message().subject
    monkeypatch.setenv("TASKMANAGER_SMTP_URL", "smtp://mail.invalid")
    done = run_command("alerts", "test")
    expected = "email: not sent. mail.invalid:25: The name of the mail server cannot be resolved.\n"
    assert (done.exit_code, done.output) == (1, expected)
