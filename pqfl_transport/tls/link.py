"""One ``SSL`` over two memory BIOs: bytes in, bytes out, and a status for every call.

Theory of operation of `Link.decrypt`, which is where a relay spends its time. Ciphertext was read from the socket into
a `Workspace`, which all connections of a thread share. A memory BIO over those bytes takes the place of the link's own
one, so OpenSSL reads them where they are; and the plaintext goes back to the beginning of the same memory. That it
never overtakes the ciphertext is arithmetic: a record is longer than its plaintext, and the one record that may have
begun in an earlier call fits into the head room before the ciphertext. A call goes on until OpenSSL has consumed
everything, so nothing of a connection stays in the workspace.
"""

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import PlatformError
from pqfl_transport.tls.alerts import LibraryError
from pqfl_transport.tls.bindings import (
    MAX_CALL_BYTES,
    address_of,
    allocate_unzeroed,
    certificate_der,
    drain_errors,
    ffi,
    lib,
)

RECORD_BYTES = 16 * 1024
"""The most plaintext of one record (RFC 9846 §5.1)."""
_HEAD_ROOM_BYTES = 4 * RECORD_BYTES
_SLICE_BYTES = 4 * RECORD_BYTES

# Looked up once: these are called for every record.
_ssl_read, _ssl_write = lib.SSL_read, lib.SSL_write
_clear_errors = lib.ERR_clear_error
_new_reader, _set_end, _set_bios, _bio_read = (
    lib.BIO_new_mem_buf,
    lib.BIO_set_mem_eof_return,
    lib.SSL_set_bio,
    lib.BIO_read,
)
_memory_bytes = lib.BIO_get_mem_data
# Where BIO_get_mem_data puts the address that nobody here asks for.
_somewhere: Any = ffi.new("char **")

Judge = Callable[[bytes, int, Callable[[], list[bytes]]], int]
"""(the peer's leaf as DER, OpenSSL's own verdict, 0 when good, what gives the chain above the leaf) → the X.509 error
to refuse it with, 0 to accept."""
Session = SSL.Session
"""What an earlier connection left behind to be resumed; opaque."""


class Status(Enum):
    """How a call ended."""

    DONE = "done"
    WANT_READ = "needs more bytes from the network"
    CLOSED = "the peer sent close_notify"
    FAILED = "failed; the link's errors say why"


class Workspace:
    """Scratch memory that every connection of a thread shares, because each call leaves it empty.

    Read from a socket into ``incoming``; what `Link.decrypt`, or `Link.take_to`, gives lies at the beginning of
    ``outgoing``, over what was read.
    """

    def __init__(self, read_bytes: int) -> None:
        room = _HEAD_ROOM_BYTES + read_bytes
        memory = bytearray(room)
        self.outgoing = memoryview(memory)
        self.incoming = self.outgoing[_HEAD_ROOM_BYTES:]
        self.room_bytes = room
        self.base: Any = ffi.from_buffer("char[]", memory, require_writable=True)
        self.source: Any = self.base + _HEAD_ROOM_BYTES
        self.records: list[Any] = [self.base + start for start in range(0, room - RECORD_BYTES + 1, RECORD_BYTES)]


class Link:
    """One ``SSL``. Statuses come back; `errors` holds what a failed call left behind."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_eof",
        "_incoming",
        "_outgoing",
        "_owner",
        "_ssl",
        "errors",
        "judge",
        "records_received",
        "records_sent",
    )

    def __init__(self, owner: object, connection: SSL.Connection, judge: Judge, now: datetime) -> None:
        # The owner's callbacks are called by OpenSSL as long as there is a connection: they must not go before it.
        self._owner = owner
        self.judge = judge
        self._connection = connection
        self._ssl: Any = connection._ssl  # noqa: SLF001
        self._incoming: Any = connection._into_ssl  # noqa: SLF001
        self._outgoing: Any = connection._from_ssl  # noqa: SLF001
        self._eof = False
        self.errors: tuple[LibraryError, ...] = ()
        self.records_received = 0
        """Records of application data decrypted so far."""
        self.records_sent = 0
        """Records of application data encrypted so far."""
        lib.X509_VERIFY_PARAM_set_time(lib.SSL_get0_param(self._ssl), int(now.timestamp()))

    @property
    def address(self) -> int:
        """Where the ``SSL`` lives: how a callback finds its link."""
        return address_of(self._ssl)

    def do_handshake(self) -> Status:
        """Go on with the handshake as far as the bytes at hand allow."""
        _clear_errors()
        return self._status(lib.SSL_do_handshake(self._ssl))

    def decrypt(self, workspace: Workspace, count: int) -> tuple[int, Status]:
        """Decrypt ``count`` bytes of ``workspace.incoming``, and what was fed before; return how much plaintext.

        ``DONE`` means that the workspace is full: call again with 0. Call with 0 until that does not happen before
        the first call with more, so that nothing fed is left.
        """
        ssl = self._ssl
        if count:
            # The former BIO is freed; the workspace's bytes are not, they belong to nobody here.
            reader = _new_reader(workspace.source, count)
            if reader == ffi.NULL:
                drain_errors()
                raise PlatformError("OpenSSL has no memory for another buffer", reason="memory")
            _set_end(reader, -1)
            _set_bios(ssl, reader, self._outgoing)
            self._incoming = self._connection._into_ssl = reader  # noqa: SLF001
        _clear_errors()
        filled = result = 0
        # One call gives one record at most, and in bulk every record is full.
        for record in workspace.records:
            result = _ssl_read(ssl, record, RECORD_BYTES)
            if result != RECORD_BYTES:
                break
            filled += RECORD_BYTES
        self.records_received += filled // RECORD_BYTES
        if result <= 0:
            return filled, self._status(result)
        if result != RECORD_BYTES:
            filled += result
            self.records_received += 1
        while filled < workspace.room_bytes:
            result = _ssl_read(ssl, workspace.base + filled, workspace.room_bytes - filled)
            if result <= 0:
                return filled, self._status(result)
            filled += result
            self.records_received += 1
        return filled, Status.DONE

    def read_into(self, buffer: memoryview) -> tuple[int, Status]:
        """Decrypt as many records as were fed straight into ``buffer``; ``DONE`` means that the buffer is full."""
        with ffi.from_buffer("char[]", buffer, require_writable=True) as data:
            room, filled = min(len(data), MAX_CALL_BYTES), 0
            _clear_errors()
            while filled < room:
                result = _ssl_read(self._ssl, data + filled, room - filled)
                if result <= 0:
                    return filled, self._status(result)
                filled += result
                self.records_received += 1
        return filled, Status.DONE

    def encrypt(self, workspace: Workspace, count: int) -> tuple[int, Status]:
        """Encrypt ``count`` bytes of ``workspace.incoming``; return how many bytes for the network there are.

        They lie at the beginning of ``workspace.outgoing``. It goes in slices, so that the BIO between stays as small
        as one; a slice grows by less than the head room that it has before it.
        """
        _clear_errors()
        filled = 0
        for start in range(0, count, _SLICE_BYTES):
            _, status = self._written(_ssl_write(self._ssl, workspace.source + start, min(_SLICE_BYTES, count - start)))
            if status is not Status.DONE:
                return filled, status
            filled += max(int(_bio_read(self._outgoing, workspace.base + filled, workspace.room_bytes - filled)), 0)
        return filled, Status.DONE

    def write(self, data: Buffer) -> tuple[int, Status]:
        """Encrypt all of ``data``, at most 2 GiB; return how much was taken."""
        with ffi.from_buffer("char[]", data) as source:
            if not len(source):
                return 0, Status.DONE
            _clear_errors()
            return self._written(_ssl_write(self._ssl, source, min(len(source), MAX_CALL_BYTES)))

    def _written(self, result: int) -> tuple[int, Status]:
        if result <= 0:
            return 0, self._status(result)
        self.records_sent += -(-result // RECORD_BYTES)
        return result, Status.DONE

    def send_close_notify(self) -> Status:
        """End our direction (RFC 9846 §6.1); the peer's stays open."""
        _clear_errors()
        result = lib.SSL_shutdown(self._ssl)
        return Status.DONE if result >= 0 else self._status(result)

    def feed(self, data: Buffer) -> None:
        """Take bytes from the network and keep them."""
        with ffi.from_buffer("char[]", data) as source:
            taken = 0
            while taken < len(source):
                result = lib.BIO_write(self._incoming, source + taken, min(len(source) - taken, MAX_CALL_BYTES))
                if result <= 0:
                    drain_errors()
                    raise PlatformError("OpenSSL has no memory for incoming bytes", reason="memory")
                taken += result

    def feed_eof(self) -> None:
        """The network will give no more."""
        self._eof = True
        _set_end(self._incoming, 0)

    @property
    def outgoing_bytes(self) -> int:
        """How many bytes wait for the network."""
        return _pending(self._outgoing)

    def take(self, max_bytes: int) -> bytes:
        """Return bytes for the network, ``b""`` when there are none."""
        count = min(max_bytes, self.outgoing_bytes)
        if count <= 0:
            return b""
        buffer = allocate_unzeroed("char[]", count)
        result = _bio_read(self._outgoing, buffer, count)
        return bytes(ffi.buffer(buffer, result)[:])

    def take_to(self, workspace: Workspace) -> int:
        """Put bytes for the network at the beginning of ``workspace.outgoing``; return how many."""
        return max(int(_bio_read(self._outgoing, workspace.base, workspace.room_bytes)), 0)

    def release_buffers(self) -> None:
        """Exchange the BIOs, which never shrink, for fresh ones, if both are empty."""
        if self._eof or _pending(self._incoming) or _pending(self._outgoing):
            return
        incoming, outgoing = lib.BIO_new(lib.BIO_s_mem()), lib.BIO_new(lib.BIO_s_mem())
        if ffi.NULL in (incoming, outgoing):
            raise PlatformError("OpenSSL has no memory for another buffer", reason="memory")
        # SSL_set_bio takes over both and frees the old ones; the connection object keeps bare pointers to them.
        _set_bios(self._ssl, incoming, outgoing)
        self._incoming = self._connection._into_ssl = incoming  # noqa: SLF001
        self._outgoing = self._connection._from_ssl = outgoing  # noqa: SLF001

    @property
    def pending_plaintext_bytes(self) -> int:
        """Decrypted bytes that wait inside OpenSSL."""
        return self._connection.pending()

    @property
    def close_notify_received(self) -> bool:
        """Whether the peer ended its direction."""
        return bool(self._connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)

    @property
    def version(self) -> str:
        """The protocol's name, ``TLSv1.3``."""
        return self._connection.get_protocol_version_name()

    @property
    def group(self) -> str | None:
        """The name of the negotiated group; names and never numbers, because hybrids share no NID."""
        return self._connection.get_group_name()

    @property
    def cipher_suite(self) -> str | None:
        """The name of the negotiated cipher suite."""
        return self._connection.get_cipher_name()

    @property
    def alpn(self) -> str | None:
        """The negotiated application protocol."""
        return self._connection.get_alpn_proto_negotiated().decode("utf-8", "replace") or None

    @property
    def session_reused(self) -> bool:
        """Whether an earlier session was resumed."""
        return bool(lib.SSL_session_reused(self._ssl))

    @property
    def session(self) -> Session | None:
        """What a client needs to resume; of use only once the server's tickets were read, which come as data does."""
        return self._connection.get_session()

    @property
    def peer_certificate_der(self) -> bytes | None:
        """The leaf the peer proved to own."""
        raw = lib.SSL_get_peer_certificate(self._ssl)
        return None if raw == ffi.NULL else certificate_der(raw, owned=True)

    def peer_chain_der(self) -> list[bytes]:
        """Return the certificates above the leaf that the peer sent, DER."""
        found = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        leaf = self.peer_certificate_der
        chain = [certificate.public_bytes(Encoding.DER) for certificate in found]
        return [der for der in chain if der != leaf]

    @property
    def own_certificate_der(self) -> bytes | None:
        """The certificate this end was asked to prove, which one of two it was."""
        raw = lib.SSL_get_certificate(self._ssl)
        return None if raw == ffi.NULL else certificate_der(raw, owned=False)

    def exporter(self, label: bytes, length_bytes: int) -> bytes:
        """Return keying material bound to this connection (RFC 9846 §7.5)."""
        return self._connection.export_keying_material(label, length_bytes, b"")

    def _status(self, result: int) -> Status:
        if result > 0:
            return Status.DONE
        error = lib.SSL_get_error(self._ssl, result)
        if error in {lib.SSL_ERROR_WANT_READ, lib.SSL_ERROR_WANT_WRITE}:
            return Status.WANT_READ
        if error == lib.SSL_ERROR_ZERO_RETURN:
            return Status.CLOSED
        self.errors = drain_errors()
        if error == lib.SSL_ERROR_SYSCALL and not self.errors:
            # OpenSSL before 3.0 reports an end of the stream this way.
            self.errors = (LibraryError(0, "unexpected eof while reading"),)
        return Status.FAILED


def _pending(bio: Any) -> int:
    return int(_memory_bytes(bio, _somewhere))
