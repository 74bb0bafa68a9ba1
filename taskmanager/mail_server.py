"""The address of a mail server: smtp://user:password@host:587?from=queue@example.org."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

SYNTAX = (
    "smtp://user:password@host:587 or smtps://user:password@host:465 (with special characters in "
    "the password URL-quoted: @ is %40), optionally with ?from=queue@example.org or ?starttls=off"
)
# Plain enough for a header and for the protocol: no space, no name before it.
ADDRESS = re.compile(r"[!#-'*+\-./0-9=?A-Z^-~]+@[A-Za-z0-9.-]+")
PORTS = {"smtp": 25, "smtps": 465}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

StartTls = Literal["auto", "required", "off"]
STARTTLS: Mapping[str, StartTls] = {"auto": "auto", "required": "required", "off": "off"}


@dataclass(frozen=True, kw_only=True)
class MailServer:
    """`starttls` auto: encrypt if the server offers it, except on this machine.

    The password is in no representation of it.
    """

    host: str = "localhost"
    port: int = 25
    is_tls: bool = False  # from the first byte on
    starttls: StartTls = "auto"
    user: str = ""
    password: str = field(default="", repr=False)
    sender: str = ""

    @property
    def is_local(self) -> bool:
        return self.host in LOCAL_HOSTS

    def sender_to(self, recipient: str) -> str:
        """Whom a mail to `recipient` comes from: the user if that is an address."""
        return self.sender or (self.user if "@" in self.user else recipient)


def parse_mail_server(text: str) -> MailServer:
    """Reads SYNTAX; empty is the mail server of this machine. Raises ValueError with SYNTAX."""
    if not text:
        return MailServer()
    try:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        port = parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        options, port = {"": ""}, 0
    starttls = STARTTLS.get(options.pop("starttls", "auto"))
    sender = options.pop("from", "")
    is_sender = not sender or ADDRESS.fullmatch(sender)
    if options or starttls is None or not is_sender or not parts.hostname:
        raise ValueError(SYNTAX)
    if parts.path + parts.fragment not in ("", "/"):
        raise ValueError(SYNTAX)
    return MailServer(
        host=parts.hostname,
        port=port,
        is_tls=parts.scheme == "smtps",
        starttls=starttls,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        sender=sender,
    )
