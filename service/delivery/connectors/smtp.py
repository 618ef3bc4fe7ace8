"""SMTP: mail over a server or relay, with STARTTLS, a stable Message-ID and one-click unsubscribing (RFC 8058).

Until the text of a mail is handed over nothing was sent; from there on no answer means that it may have been. A mail
server drops no second mail of the same Message-ID, so the key is not honoured.
"""

from __future__ import annotations

import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from typing import Final

import aiosmtplib

from service.delivery.calls import AGAIN_SECONDS, Clock
from service.delivery.connectors_file import SmtpConnector
from service.delivery.http_client import AddressGuard
from service.delivery.message import Later, Message, Refused, SendResult, Sent, Unknown

_GONE: Final = (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPTimeoutError, OSError)


def mail(message: Message, clock: Clock) -> EmailMessage:
    """The mail of a message; raises ValueError for an address that is none."""
    made = EmailMessage(policy=SMTP)
    name, sender = parseaddr(message.sender)
    made["From"] = Address(name, addr_spec=sender)
    made["To"] = Address(addr_spec=message.to[0])
    made["Subject"] = message.subject
    made["Date"] = format_datetime(clock.utc())
    made["Message-ID"] = f"<{message.idempotency_key}@{sender.rpartition('@')[2]}>"
    if message.reply_to:
        made["Reply-To"] = message.reply_to
    if message.unsubscribe_url:
        made["List-Unsubscribe"] = f"<{message.unsubscribe_url}>"
        made["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    made["Feedback-ID"] = f"{message.offer}:{message.brand}:croupier"
    made.set_content(message.text)
    if message.html:
        made.add_alternative(message.html, subtype="html")
    return made


class SmtpSender:
    """Sends mails over one server; connections that took one are used again.

    Args:
        connector: The server.
        password: "" where it asks for none.
        guard: Opens sockets to addresses that may be called.
        clock: The time.
    """

    honours_key: Final = False

    def __init__(self, connector: SmtpConnector, password: str, guard: AddressGuard, clock: Clock) -> None:
        self._connector, self._password, self._guard, self._clock = connector, password, guard, clock
        self._idle: list[aiosmtplib.SMTP] = []

    async def send(self, message: Message) -> SendResult:
        """Hand a mail to the server, once."""
        try:
            made = mail(message, self._clock)
            content, sender = made.as_bytes(), parseaddr(message.sender)[1]
        except (ValueError, IndexError) as error:
            return Refused(f"no mail can be made of it: {type(error).__name__}", permanent=True)
        try:
            server = await self._named(sender, message.to[0])
        except aiosmtplib.SMTPResponseException as error:
            return _refused(error)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            return Later(AGAIN_SECONDS, f"nobody was reached: {type(error).__name__}")
        try:
            answered = await server.data(content)
        except aiosmtplib.SMTPResponseException as error:
            self._idle.append(server)
            return _refused(error)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            server.close()
            return Unknown(f"no answer to the mail: {type(error).__name__}")
        self._idle.append(server)
        return Sent(str(made["Message-ID"]).strip("<>")) if answered.code // 100 == 2 else Unknown("odd answer")

    async def _named(self, sender: str, to: str) -> aiosmtplib.SMTP:
        """A server that took sender and recipient of a mail: an idle connection if one still lives, else a new one."""
        while self._idle:
            server = self._idle.pop()
            try:
                return await _addressed(server, sender, to)
            except _GONE:
                server.close()
        server = await self._connected()
        try:
            return await _addressed(server, sender, to)
        except aiosmtplib.SMTPException:
            server.close()
            raise

    async def _connected(self) -> aiosmtplib.SMTP:
        told = self._connector
        secured = None if told.tls == "none" else ssl.create_default_context(cafile=told.ca)
        server = aiosmtplib.SMTP(
            hostname=told.host,
            port=None,
            timeout=told.timeout_seconds,
            use_tls=told.tls == "tls",
            start_tls=told.tls == "starttls",
            tls_context=secured,
            sock=await self._guard.connect(told.host, told.port),
            username=told.user,
            password=self._password or None,
            local_hostname="croupier",
        )
        await server.connect()
        return server

    async def close(self) -> None:
        """Close connections."""
        while self._idle:
            self._idle.pop().close()


async def _addressed(server: aiosmtplib.SMTP, sender: str, to: str) -> aiosmtplib.SMTP:
    try:
        await server.mail(sender)
        await server.rcpt(to)
    except aiosmtplib.SMTPResponseException:
        await server.rset()
        raise
    return server


def _refused(error: aiosmtplib.SMTPResponseException) -> Later | Refused:
    """An answer of 4xx says later, 5xx never (RFC 5321, section 4.2.1)."""
    reason = f"answered {error.code}"
    return Later(60.0, reason) if error.code // 100 == 4 else Refused(reason, permanent=error.code // 100 == 5)
