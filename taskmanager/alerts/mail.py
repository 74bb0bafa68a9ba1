"""Sends one mail by SMTP, and says why it was not sent. Owns no rule about when to send.

No error has the password, whatever the server repeats of it.
"""

import base64
import contextlib
import platform
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from email.message import EmailMessage
from email.policy import SMTP as WIRE
from email.utils import formatdate, make_msgid

from taskmanager.alerts.messages import Message
from taskmanager.clock import utc_now
from taskmanager.mail_server import MailServer
from taskmanager.notify.sending import NotSent

MAX_ANSWER = 200  # characters of what the server said

Reply = tuple[int, bytes | str]


def send_mail(
    message: Message, *, server: MailServer, recipients: Sequence[str], seconds: float
) -> str:
    """Sends a mail to all recipients within `seconds`; returns what the server answered.

    Raises NotSent with a sentence, also if the server refuses one of them.
    """
    sender = server.sender_to(recipients[0])
    try:
        with _connected(server, seconds) as smtp:
            _log_in(smtp, server)
            _require(smtp.mail(sender), f"the sender {sender}")
            for recipient in recipients:
                _require(smtp.rcpt(recipient), f"the recipient {recipient}")
            reply = smtp.data(_mail(message, sender, recipients).as_bytes(policy=WIRE))
            _require(reply, "the mail")
            return _said(reply, server)
    except _Refused as error:
        what, reply = error.args
        said = f"The mail server refused {what}: {_said(reply, server)}"
        raise NotSent(said) from None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise NotSent(f"{server.host}:{server.port}: {_reason(error, server)}") from None


class _Refused(Exception):
    """The server will not do something. Holds what that is, and the reply."""


@contextlib.contextmanager
def _connected(server: MailServer, seconds: float) -> Iterator[smtplib.SMTP]:
    """A connection that is cut after `seconds`: a timeout of the socket counts each read anew."""
    context = ssl.create_default_context()
    # smtplib would ask a name server for it.
    name = platform.node() if "." in platform.node() else "[127.0.0.1]"
    smtp: smtplib.SMTP
    if server.is_tls:
        smtp = smtplib.SMTP_SSL(server.host, server.port, name, timeout=seconds, context=context)
    else:
        smtp = smtplib.SMTP(server.host, server.port, name, timeout=seconds)
    timer = threading.Timer(seconds, _cut, (smtp,))
    timer.daemon = True
    timer.start()
    try:
        smtp.ehlo_or_helo_if_needed()
        if _starts_tls(smtp, server):
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
        yield smtp
        with contextlib.suppress(OSError, smtplib.SMTPException):  # the mail is sent
            smtp.quit()
    finally:
        timer.cancel()
        smtp.close()


def _starts_tls(smtp: smtplib.SMTP, server: MailServer) -> bool:
    if server.is_tls or server.starttls == "off":
        return False
    if server.starttls == "required":
        return True  # starttls() raises where the server does not offer it
    return smtp.has_extn("starttls") and not server.is_local


def _cut(smtp: smtplib.SMTP) -> None:
    connection = smtp.sock
    if connection is not None:
        with contextlib.suppress(OSError):
            # The socket's own method: that of SSLSocket takes its TLS away under a reader.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _log_in(smtp: smtplib.SMTP, server: MailServer) -> None:
    if not server.user:
        return
    is_encrypted = isinstance(smtp.sock, ssl.SSLSocket)
    if not (is_encrypted or server.is_local or server.starttls == "off"):
        raise NotSent(
            f"{server.host} offers no encryption, so the password was not sent. Use smtps://, or "
            "?starttls=off to send it nevertheless."
        )
    smtp.login(server.user, server.password)


def _require(reply: Reply, what: str) -> None:
    if not 200 <= reply[0] < 300:
        raise _Refused(what, reply)


def _mail(message: Message, sender: str, recipients: Sequence[str]) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"] = sender
    mail["To"] = ", ".join(recipients)
    mail["Date"] = formatdate(utc_now() / 1000)
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody on holiday answers it
    mail.set_content(message.text, cte="quoted-printable")  # fits every server
    return mail


def _reason(error: Exception, server: MailServer) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = _said((error.smtp_code, error.smtp_error), server)
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return f"The mail server refused the user or the password: {said}"
        return f"The mail server answered {said}"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "The mail server offers no STARTTLS, or no way to log in."
    if isinstance(error, socket.gaierror):
        return "The name of the mail server cannot be resolved."
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate of the mail server is not valid: {error.verify_message}."
    if isinstance(error, ssl.SSLError):
        return "TLS failed. Is it a port for smtps:// or for smtp://?"
    if isinstance(error, (TimeoutError, smtplib.SMTPServerDisconnected)):
        return "The mail server gave no answer in time, or closed the connection."
    if isinstance(error, ConnectionRefusedError):
        return "Nothing takes the connection there. Is the port right?"
    return f"The mail was not sent: {type(error).__name__}."


def _said(reply: Reply, server: MailServer) -> str:
    """What the server answered, without the password."""
    code, answer = reply
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    if server.password:
        login = f"\0{server.user}\0{server.password}"  # as AUTH PLAIN sends it
        for secret in (server.password, _base64(server.password), _base64(login)):
            text = text.replace(secret, "***")
    return f"{code} {' '.join(text.split())}"[:MAX_ANSWER]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
