"""A blocking socket over a `TlsEngine`: what ``SSLContext.wrap_socket`` gives to code without an event loop.

One thread may read while another one writes. The engine is used by one thread at a time, nobody waits for the network
while holding it, and what it gives goes out in its order: hence the three locks.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.tls.config import TlsConfig
from pqfl_transport.tls.engine import TlsEngine
from pqfl_transport.tls.facts import ConnectionFacts
from pqfl_transport.tls.translation import to_ssl_error

_READ_BYTES = 64 * 1024
_WRITE_BYTES = 256 * 1024
_LINGER_SECONDS = 1.0


class TlsSocket(ConnectionFacts, socket.socket):
    """Takes over a connected socket. Errors are the standard library's ``ssl`` errors, ours are their causes.

    Raises ``ConfigurationError`` (``not_connected``) for any other socket, which is then left as it is.
    """

    def __init__(
        self,
        sock: socket.socket,
        engine: TlsEngine,
        config: TlsConfig,
        context: ssl.SSLContext,
        server_hostname: str | None = None,
    ) -> None:
        _require_connected(sock)
        timeout_seconds = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.settimeout(timeout_seconds)
        self._engine, self._config, self._context = engine, config, context
        self._server_hostname = server_hostname
        self._using = threading.Lock()
        self._reading = threading.Lock()
        self._writing = threading.RLock()
        # What the network has not taken yet: after a timeout, or on a socket that does not block.
        self._unsent = memoryview(b"")

    def do_handshake(self) -> None:
        """Complete the handshake. When we refuse, the peer has been sent the alert that says why."""
        while True:
            try:
                with self._using:
                    complete = self._engine.do_handshake()
            except PeerError as error:
                self._take_leave()
                raise to_ssl_error(error) from error
            self._flush()
            if complete:
                return
            self._receive(_READ_BYTES)

    def recv(self, bufsize: int = 1024, flags: int = 0) -> bytes:
        """Return plaintext, ``b""`` once the peer has ended."""
        view = memoryview(bytearray(bufsize))
        return bytes(view[: self.recv_into(view, bufsize, flags)])

    def recv_into(self, buffer: Any, nbytes: int | None = 0, flags: int = 0) -> int:
        """Fill ``buffer`` with plaintext; return how much, 0 once the peer has ended."""
        _refuse_flags(flags)
        view = memoryview(buffer).cast("B")[: nbytes or None]
        with self._reading:
            return self._read(view, _READ_BYTES) if view else 0

    def send(self, data: Any, flags: int = 0) -> int:
        """Encrypt and send ``data``, up to 256 KiB of it; return how much was taken."""
        _refuse_flags(flags)
        view = memoryview(data).cast("B")[:_WRITE_BYTES]
        with self._writing:
            # What an earlier call left goes first, and where it cannot, nothing more is taken.
            self._flush()
            with self._using, _translated():
                self._engine.write(view)
            with contextlib.suppress(ssl.SSLWantWriteError):
                self._flush()
        return len(view)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Encrypt and send all of ``data``."""
        view = memoryview(data).cast("B")
        with self._writing:
            while view:
                view = view[self.send(view, flags) :]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Encrypt and send a file, and never what the operating system would send of it by itself."""
        return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined, no-any-return]

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 -- the name in the standard library
        """Return plaintext, or fill ``buffer`` and return how much."""
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    def write(self, data: Buffer) -> int:
        """Encrypt and send ``data`` as `send` does."""
        return self.send(data)

    def shutdown(self, how: int) -> None:
        """End our direction as TLS does, then as TCP does."""
        if how in {socket.SHUT_WR, socket.SHUT_RDWR}:
            self._send_close_notify()
        super().shutdown(how)

    def unwrap(self) -> socket.socket:
        """End TLS on both sides; return the plain socket, which goes on."""
        self._send_close_notify()
        scratch = memoryview(bytearray(_READ_BYTES))
        with self._reading:
            # Byte by byte: what the peer sends after its end belongs to the plain socket.
            while self._read(scratch, 1):
                pass
        timeout_seconds = self.gettimeout()
        plain = socket.socket(self.family, self.type, self.proto, fileno=self.detach())
        plain.settimeout(timeout_seconds)
        return plain

    def _real_close(self) -> None:
        # The last user is gone: without close_notify the peer would have to take the end for a cut. Nobody waits for
        # that to be possible.
        if self._writing.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError):
                    self.settimeout(0)
                    self._send_close_notify()
            finally:
                self._writing.release()
        super()._real_close()  # type: ignore[misc]

    def _read(self, view: memoryview, read_bytes: int) -> int:
        while True:
            with self._using, _translated():
                count, ended = self._engine.read_into(view), self._engine.peer_closed
            # Reading can make the engine answer, to a key update for instance. A writer that is at it takes that along.
            if self._writing.acquire(blocking=False):
                try:
                    self._flush()
                finally:
                    self._writing.release()
            if count or ended:
                return count
            self._receive(read_bytes)

    def _receive(self, max_bytes: int) -> None:
        try:
            data = super().recv(max_bytes)
        except BlockingIOError as error:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing has come from the network") from error
        with self._using:
            if data:
                self._engine.receive(data)
            else:
                self._engine.receive_eof()

    def _flush(self) -> None:
        with self._writing:
            while True:
                if not self._unsent:
                    with self._using:
                        self._unsent = memoryview(self._engine.data_to_send())
                if not self._unsent:
                    return
                try:
                    sent = super().send(self._unsent)
                except BlockingIOError as error:
                    raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "the network takes no more") from error
                self._unsent = self._unsent[sent:]

    def _send_close_notify(self) -> None:
        with self._using, contextlib.suppress(PeerError):
            self._engine.send_close_notify()
        self._flush()

    def _take_leave(self) -> None:
        # A socket closed with unread bytes sends a reset, and the peer would see that instead of the alert: so say that
        # nothing more comes, and read what is still on its way for a moment.
        timeout_seconds = self.gettimeout()
        deadline = time.monotonic() + _LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.settimeout(_LINGER_SECONDS)
            self._flush()
            super().shutdown(socket.SHUT_WR)
            while (left_seconds := deadline - time.monotonic()) > 0:
                self.settimeout(left_seconds)
                if not super().recv(_READ_BYTES):
                    break
        with contextlib.suppress(OSError):
            self.settimeout(timeout_seconds)


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: TlsSocket, *arguments: object, **options: object) -> NoReturn:
        del self, arguments, options
        raise ConfigurationError(
            f"{name}() would bypass TLS: use recv, recv_into, send, sendall or sendfile", reason="bypasses_tls"
        )

    method.__name__ = name
    method.__doc__ = "Raise ``ConfigurationError``: it would bypass TLS."
    return method


# The rest of what carries bytes past TLS; those that a platform lacks do no harm.
for _name in ("recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "sendto", "sendmsg", "sendmsg_afalg", "dup"):
    setattr(TlsSocket, _name, _refusing(_name))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PeerError as error:
        raise to_ssl_error(error) from error


def _require_connected(sock: socket.socket) -> None:
    try:
        sock.getpeername()
        stream = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    except OSError:
        stream = False
    if not stream:
        raise ConfigurationError(
            "wrap_socket takes a connected stream socket: connect or accept first, then wrap", reason="not_connected"
        )


def _refuse_flags(flags: int) -> None:
    if flags:
        raise ValueError("a TLS socket takes no flags")
