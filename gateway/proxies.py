"""The way out through a proxy: HTTP CONNECT (RFC 9110 §9.3.6) and SOCKS5 (RFC 1928, RFC 1929). No I/O.

A conversation is asked for `data_to_send` and told what came by `receive`, until it is `complete`. What comes after the
proxy's last byte belongs to the tunnel, and is given back.
"""

import base64
import ipaddress
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from pqfl_transport.errors import ConfigurationError, TransportError
from pqfl_transport.net.address import Address

MAX_ANSWER_BYTES = 8 * 1024

_EXPECTED = "expected http://[USER:PASSWORD@]HOST:PORT or socks5://[USER:PASSWORD@]HOST:PORT"
# RFC 1929 §2 has one byte for a length.
_MAX_WORD_BYTES = 255
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

_END_OF_HEAD = b"\r\n\r\n"
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-5][0-9]{2})(?: .*)?")
_SHOWN_CHARACTERS = 200

_SOCKS5, _AUTHENTICATION_VERSION = 5, 1
_NO_AUTHENTICATION, _USER_PASSWORD = 0, 2
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_PORT_BYTES = 2
_ADDRESS_BYTES = MappingProxyType({_IPV4: 4, _IPV6: 16})
_REPLIES = MappingProxyType(
    {
        1: "it failed",
        2: "its rules do not allow this connection",
        3: "the network cannot be reached",
        4: "the host cannot be reached",
        5: "the target refuses the connection",
        6: "the time to live expired",
        7: "it does not know the command",
        8: "it does not know this type of address",
    }
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, as a URL names it. Neither ``str`` nor ``repr`` has the password."""

    scheme: str
    address: Address
    user: bytes | None = None
    password: bytes = field(default=b"", repr=False)

    @classmethod
    def parse(cls, url: str, where: str) -> Self:
        """Parse ``http://[USER:PASSWORD@]HOST:PORT`` or ``socks5://…``; user and password are percent-encoded.

        Raises ``ConfigurationError`` that begins with ``where`` and repeats nothing of the URL, which may hold a
        password wherever a character was not encoded.
        """
        parts, port = _split(url, where)
        extra = parts.path not in {"", "/"} or parts.query or parts.fragment
        if parts.scheme not in _CONVERSATIONS or not parts.hostname or not port or extra:
            raise _bad_proxy(where, _EXPECTED)
        # RFC 6874 §2: the percent sign of a zone is encoded in a URL.
        host = f"[{parts.hostname.replace('%25', '%', 1)}]" if ":" in parts.hostname else parts.hostname
        try:
            address = Address.parse(f"{host}:{port}", where)
        except ConfigurationError:
            raise _bad_proxy(where, _EXPECTED) from None
        if parts.username is None:
            return cls(parts.scheme, address)
        user, password = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
        _check_words(parts.scheme, user, password, where)
        return cls(parts.scheme, address, user, password)

    def conversation(self, target: Address) -> "Conversation":
        """Return what opens a tunnel to ``target``. Raises ``ConfigurationError`` where no proxy can reach that."""
        if not target.host or "%" in target.host:
            raise ConfigurationError(f"target {target}: a proxy reaches hosts and ports only", reason="bad_proxy")
        return Conversation(self, target)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


class Conversation:
    """One tunnel being opened. Once it is `complete`, everything belongs to the tunnel."""

    def __init__(self, proxy: Proxy, target: Address) -> None:
        self._proxy, self._target = proxy, target
        self._received, self._understood_bytes = b"", 0
        self._steps = _CONVERSATIONS[proxy.scheme](proxy, target)
        self._outgoing, self._wanted = next(self._steps)
        self.complete = False

    def data_to_send(self) -> bytes:
        """Return what has to be sent to the proxy now, each byte once."""
        data, self._outgoing = self._outgoing, b""
        return data

    def receive(self, data: bytes) -> bytes:
        """Take what came from the proxy, ``b""`` for its end; return what of it belongs to the tunnel.

        Raises ``TransportError`` (``proxy_refused``) that names proxy and target, for every answer but a tunnel.
        """
        if self.complete:
            return data
        if not data:
            raise self._refusal("it closed the connection")
        self._received += data
        try:
            while (size := self._wanted(self._received)) is not None:
                piece, self._received = self._received[:size], self._received[size:]
                self._understood_bytes += size
                outgoing, self._wanted = self._steps.send(piece)
                self._outgoing += outgoing
        except StopIteration:
            self.complete = True
            rest, self._received = self._received, b""
            return rest
        except _RefusedError as error:
            raise self._refusal(str(error)) from None
        if self._understood_bytes + len(self._received) >= MAX_ANSWER_BYTES:
            raise self._refusal(f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
        return b""

    def _refusal(self, why: str) -> TransportError:
        return TransportError(f"target {self._target} through proxy {self._proxy}: {why}", reason="proxy_refused")


class _RefusedError(Exception):
    """The proxy says no, or what nobody understands."""


_Wanted = Callable[[bytes], int | None]
"""Tells how many of these bytes make up what is waited for; ``None`` while it is not all there."""

_Steps = Generator[tuple[bytes, _Wanted], bytes, None]
"""Gives what to send and what to wait for then, takes what was waited for, and ends when there is a tunnel."""


def _http(proxy: Proxy, target: Address) -> _Steps:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user is not None:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.user + b':' + proxy.password).decode()}")
    head = yield ("\r\n".join(lines) + "\r\n\r\n").encode(), _head
    while (status := _status(head)) // 100 == 1:
        # RFC 9110 §15.2: any number of interim answers may come before the one that counts.
        head = yield b"", _head
    if status // 100 != 2:  # noqa: PLR2004 -- the class of successes
        line = head.partition(b"\r\n")[0].decode("latin-1")[:_SHOWN_CHARACTERS]
        raise _RefusedError(f"it answered {line!r}")


def _status(head: bytes) -> int:
    line = _STATUS_LINE.fullmatch(head.partition(b"\r\n")[0])
    if line is None:
        raise _RefusedError("it does not answer in HTTP/1.1")
    return int(line[1])


def _head(received: bytes) -> int | None:
    end = received.find(_END_OF_HEAD, 0, MAX_ANSWER_BYTES)
    return None if end < 0 else end + len(_END_OF_HEAD)


def _socks5(proxy: Proxy, target: Address) -> _Steps:
    methods = bytes([_NO_AUTHENTICATION] if proxy.user is None else [_NO_AUTHENTICATION, _USER_PASSWORD])
    version, method = yield bytes([_SOCKS5, len(methods)]) + methods, _exactly(2)
    if version != _SOCKS5:
        raise _RefusedError("it does not speak SOCKS5")
    if method not in methods:
        hint = "" if proxy.user is not None else "; perhaps it wants a user and a password"
        raise _RefusedError(f"it accepts no way to authenticate that it was offered{hint}")
    if method == _USER_PASSWORD and proxy.user is not None:
        words = b"".join(bytes([len(word)]) + word for word in (proxy.user, proxy.password))
        _, denied = yield bytes([_AUTHENTICATION_VERSION]) + words, _exactly(2)
        if denied:
            raise _RefusedError("it does not accept user and password")
    version, reply, _, kind = yield bytes([_SOCKS5, _CONNECT, 0]) + _socks_address(target), _exactly(4)
    if version != _SOCKS5:
        raise _RefusedError("it does not speak SOCKS5")
    if reply:
        raise _RefusedError(_REPLIES.get(reply, f"it answered with code {reply}"))
    # The address it connects from follows: of no interest, but to be read.
    if kind == _NAME:
        (size,) = yield b"", _exactly(1)
    elif kind in _ADDRESS_BYTES:
        size = _ADDRESS_BYTES[kind]
    else:
        raise _RefusedError(f"it answered with an address of type {kind}")
    yield b"", _exactly(size + _PORT_BYTES)


def _exactly(size: int) -> _Wanted:
    return lambda received: size if len(received) >= size else None


def _socks_address(target: Address) -> bytes:
    port = target.port.to_bytes(_PORT_BYTES, "big")
    try:
        packed = ipaddress.ip_address(target.host).packed
    except ValueError:
        # The proxy resolves names: a site behind one often cannot. Our addresses hold 255 ASCII characters at most.
        name = target.host.encode("ascii")
        return bytes([_NAME, len(name)]) + name + port
    kind = next(kind for kind, size in _ADDRESS_BYTES.items() if size == len(packed))
    return bytes([kind]) + packed + port


_CONVERSATIONS = MappingProxyType({"http": _http, "socks5": _socks5})


def _split(url: str, where: str) -> tuple[SplitResult, int | None]:
    try:
        # Bytes of the command line that are no UTF-8 arrive as halves of surrogate pairs, and leave here as an error.
        url.encode()
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _bad_proxy(where, _EXPECTED) from None
    return parts, port


def _check_words(scheme: str, user: bytes, password: bytes, where: str) -> None:
    if _CONTROL.search(user + password) or max(len(user), len(password)) > _MAX_WORD_BYTES:
        raise _bad_proxy(where, "user and password have at most 255 bytes and no control characters")
    if scheme == "http" and b":" in user:
        # RFC 7617 §2: the first colon ends the user.
        raise _bad_proxy(where, "a user of HTTP has no colon")
    if scheme == "socks5" and not (user and password):
        # RFC 1929 §2: each has at least one byte.
        raise _bad_proxy(where, "SOCKS5 needs both a user and a password")


def _bad_proxy(where: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: {what}", reason="bad_proxy")
