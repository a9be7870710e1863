"""A blocking socket over a `TlsEngine`: what ``SSLContext.wrap_socket`` gives to code without an event loop."""

import contextlib
import socket
from typing import Any

from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import PeerError
from pqfl_transport.tls.engine import TlsEngine
from pqfl_transport.tls.peers import TLS_1_3, PeerFacts
from pqfl_transport.tls.translation import peer_certificate, to_ssl_error

_READ_BYTES = 64 * 1024
_CIPHER_BITS = 256


class TlsSocket(socket.socket):
    """Takes over a connected socket. Errors are the standard library's ``ssl`` errors, ours are their causes."""

    def __init__(self, sock: socket.socket, engine: TlsEngine) -> None:
        timeout_seconds = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.settimeout(timeout_seconds)
        self._engine = engine

    @property
    def peer(self) -> PeerFacts:
        """Who is there and what was negotiated. Raises ``ConfigurationError`` before the handshake is complete."""
        return self._engine.peer

    def do_handshake(self) -> None:
        """Complete the handshake. When we refuse, the peer has been sent the alert that says why."""
        while True:
            try:
                complete = self._engine.do_handshake()
            except PeerError as error:
                with contextlib.suppress(OSError):
                    self._flush()
                    super().shutdown(socket.SHUT_WR)
                raise to_ssl_error(error) from error
            self._flush()
            if complete:
                return
            self._receive_more()

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return plaintext, ``b""`` once the peer has ended."""
        buffer = bytearray(bufsize)
        return bytes(buffer[: self.recv_into(buffer, bufsize, flags)])

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Fill ``buffer`` with plaintext; return how much, 0 once the peer has ended."""
        _refuse_flags(flags)
        view = memoryview(buffer).cast("B")[: nbytes or None]
        if not view:
            return 0
        while True:
            try:
                count = self._engine.read_into(view)
            except PeerError as error:
                raise to_ssl_error(error) from error
            self._flush()
            if count or self._engine.peer_closed:
                return count
            self._receive_more()

    def send(self, data: Any, flags: int = 0) -> int:
        """Encrypt and send all of ``data``."""
        _refuse_flags(flags)
        view = memoryview(data).cast("B")
        try:
            self._engine.write(view)
        except PeerError as error:
            raise to_ssl_error(error) from error
        self._flush()
        return len(view)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Encrypt and send all of ``data``."""
        self.send(data, flags)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 -- the name in the standard library
        """Return plaintext, or fill ``buffer`` and return how much."""
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    def write(self, data: Buffer) -> int:
        """Encrypt and send all of ``data``; return its length."""
        return self.send(data)

    def shutdown(self, how: int) -> None:
        """End our direction as TLS does, then as TCP does."""
        if how in {socket.SHUT_WR, socket.SHUT_RDWR}:
            self._send_close_notify()
        super().shutdown(how)

    def unwrap(self) -> socket.socket:
        """End TLS on both sides; return the plain socket, which goes on."""
        self._send_close_notify()
        scratch = bytearray(_READ_BYTES)
        while self.recv_into(scratch):
            pass
        timeout_seconds = self.gettimeout()
        plain = socket.socket(self.family, self.type, self.proto, fileno=self.detach())
        plain.settimeout(timeout_seconds)
        return plain

    def pending(self) -> int:
        """Return how much plaintext can be read without the network."""
        return self._engine.pending_bytes

    def getpeercert(self, binary_form: bool = False) -> bytes | dict[str, Any] | None:
        """Return the peer's certificate as DER, or as the standard library's dictionary."""
        return peer_certificate(self._engine, binary_form=binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """Return the application protocol that was agreed."""
        return self._engine.peer.alpn

    def cipher(self) -> tuple[str, str, int] | None:
        """Return cipher suite, protocol and key length in bits; None before the handshake is complete."""
        if not self._engine.handshake_complete:
            return None
        return self._engine.peer.cipher_suite, TLS_1_3, _CIPHER_BITS

    def version(self) -> str | None:
        """Return the protocol; None before the handshake is complete."""
        return TLS_1_3 if self._engine.handshake_complete else None

    def _real_close(self) -> None:
        # The last user is gone: without close_notify the peer would have to take the end for a cut.
        with contextlib.suppress(OSError):
            self._send_close_notify()
        super()._real_close()  # type: ignore[misc]

    def _send_close_notify(self) -> None:
        with contextlib.suppress(PeerError):
            self._engine.send_close_notify()
        self._flush()

    def _receive_more(self) -> None:
        data = super().recv(_READ_BYTES)
        if data:
            self._engine.receive(data)
        else:
            self._engine.receive_eof()

    def _flush(self) -> None:
        while data := self._engine.data_to_send():
            super().sendall(data)


def _refuse_flags(flags: int) -> None:
    if flags:
        raise ValueError("a TLS socket takes no flags")
