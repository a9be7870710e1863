"""The one door to OpenSSL, through pyOpenSSL: contexts, connections over memory, and what has no public name there.

pyOpenSSL has no setter for groups or signature algorithms, copies every record twice on reading, and hands a verify
callback no way to choose the alert. Those calls go to the bindings beneath it, here and nowhere else. All of them
follow one discipline, which is pyOpenSSL's own: the thread's error queue is empty before a call, and read to its end
after a failed one.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from pqfl_transport.crypto.pyca import Buffer
from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.tls import alerts
from pqfl_transport.tls.alerts import LibraryError

# pyOpenSSL publishes its cffi library under these names only.
_lib: Any = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001
_ffi: Any = SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001
_allocate_unzeroed = _ffi.new_allocator(should_clear_after_alloc=False)

_MODE_NO_AUTO_CHAIN = 0x8
"""SSL_MODE_NO_AUTO_CHAIN, which pyOpenSSL does not name: send the leaf and nothing found in the trust store."""

_MAX_CALL_BYTES = 2**31 - 1
_SESSION_CONTEXT = b"pqfl"

Judge = Callable[[x509.Certificate, int], int]
"""(the peer's leaf, OpenSSL's own verdict, 0 when good) → the X.509 error to refuse it with, 0 to accept."""


class Status(Enum):
    """How a call ended."""

    DONE = "done"
    WANT_READ = "needs more bytes from the network"
    CLOSED = "the peer sent close_notify"
    FAILED = "failed; the link's errors say why"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a context is made of. Names are OpenSSL's."""

    server: bool
    groups: Sequence[str]
    signature_algorithms: Sequence[str]
    cipher_suites: Sequence[str]
    certificate: x509.Certificate
    private_key_pem: bytes = field(repr=False)
    anchors: Sequence[x509.Certificate]
    alpn: Sequence[str] = ()


def openssl_version() -> str:
    """Return the version text of the OpenSSL that is really in use."""
    return SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode("ascii", "replace")


class LinkFactory:
    """One ``SSL_CTX``: TLS 1.3 only, mutual certificates, nothing resumed. It makes many links and never changes.

    Raises ``PlatformError`` naming an algorithm this libcrypto lacks (one unknown name would drop a whole list in
    silence) or for a bad OpenSSL configuration file, ``ConfigurationError`` where the key does not fit the certificate.
    """

    def __init__(self, settings: Settings) -> None:
        self._server = settings.server
        self._links: weakref.WeakValueDictionary[int, Link] = weakref.WeakValueDictionary()
        self._context = _new_context()
        self._context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._context.set_max_proto_version(SSL.TLS1_3_VERSION)
        self._diet()
        self._set_list("SSL_CTX_set1_curves_list", "TLS group", settings.groups)
        self._set_list("SSL_CTX_set1_sigalgs_list", "signature algorithm", settings.signature_algorithms)
        self._set_list("SSL_CTX_set_ciphersuites", "cipher suite", settings.cipher_suites)
        self._use_identity(settings.certificate, settings.private_key_pem)
        self._trust(settings.anchors)
        self._offer(settings.alpn)

    def new_link(self, judge: Judge, *, server_name: str | None, now: datetime) -> "Link":
        """Start one connection whose peer ``judge`` decides on; OpenSSL judges certificates as of ``now``."""
        connection = SSL.Connection(self._context, None)
        if self._server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        if server_name is not None:
            connection.set_tlsext_host_name(server_name.encode("ascii"))
        link = Link(self, connection, judge, now)
        self._links[link.address] = link
        return link

    def _diet(self) -> None:
        # Each of these keeps bytes or state out of the handshake; nothing is ever resumed, so no ticket is of use.
        self._context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        self._context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self._context.set_session_id(_SESSION_CONTEXT)
        self._context.set_mode(_MODE_NO_AUTO_CHAIN | SSL.MODE_RELEASE_BUFFERS)
        # A memory BIO takes everything, so one call may write all of a buffer instead of one record of it.
        self._context.clear_mode(_lib.SSL_MODE_ENABLE_PARTIAL_WRITE)

    def _set_list(self, setter: str, what: str, names: Sequence[str]) -> None:
        call = getattr(_lib, setter)
        if call(self._raw, ":".join(names).encode()) == 1:
            return
        drain_errors()
        missing = [name for name in names if call(self._raw, name.encode()) != 1]
        drain_errors()
        raise PlatformError(
            f"{openssl_version()} knows no {what} {', '.join(missing) or ', '.join(names)}", reason="missing_algorithm"
        )

    def _use_identity(self, certificate: x509.Certificate, private_key_pem: bytes) -> None:
        try:
            self._context.use_certificate(certificate)
            # Not `use_privatekey`: it takes no ML-DSA key of cryptography's and calls its own key class deprecated.
            # Through PEM all three serialisations of an ML-DSA key load (seed, expanded, both).
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, private_key_pem, b"")
            fits = _lib.SSL_CTX_use_PrivateKey(self._raw, key._pkey) == 1  # noqa: SLF001
            fits = fits and _lib.SSL_CTX_check_private_key(self._raw) == 1
        except (SSL.Error, crypto.Error) as error:
            raise ConfigurationError(f"OpenSSL does not load it: {_said(error)}", reason="bad_key") from error
        if not fits:
            drain_errors()
            raise ConfigurationError("it is not the private key of the certificate", reason="key_mismatch")

    def _trust(self, anchors: Sequence[x509.Certificate]) -> None:
        store = self._context.get_cert_store()
        if store is None:
            raise PlatformError("OpenSSL has no certificate store", reason="openssl")
        for anchor in anchors:
            store.add_cert(crypto.X509.from_cryptography(anchor))
            if self._server:
                # Named in the certificate request: some clients send no certificate otherwise.
                self._context.add_client_ca(anchor)
        self._verify_callback = _ffi.callback("int (*)(int, X509_STORE_CTX *)", self._verify, error=0)
        mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        _lib.SSL_CTX_set_verify(self._raw, mode, self._verify_callback)

    def _verify(self, good: int, store: Any) -> int:
        """Judge the peer's chain while the handshake still can send an alert; called once a certificate by OpenSSL."""
        if good and _lib.X509_STORE_CTX_get_error_depth(store) > 0:
            return 1
        ssl = _lib.X509_STORE_CTX_get_ex_data(store, _lib.SSL_get_ex_data_X509_STORE_CTX_idx())
        link = self._links[_address(ssl)]
        try:
            leaf = _to_certificate(_lib.X509_STORE_CTX_get0_cert(store), owned=False)
        except ValueError:
            # OpenSSL parses some certificates that are none by RFC 5280; nothing may be raised into it from here.
            verdict = alerts.CERT_REJECTED
        else:
            verdict = link.judge(leaf, 0 if good else _lib.X509_STORE_CTX_get_error(store))
        _lib.X509_STORE_CTX_set_error(store, verdict)
        return int(verdict == 0)

    def _offer(self, protocols: Sequence[str]) -> None:
        if not protocols:
            return
        own = [name.encode() for name in protocols]
        if not self._server:
            self._context.set_alpn_protos(own)
            return

        def select(_ssl: Any, out: Any, out_length: Any, offered: Any, offered_length: int, _argument: Any) -> int:
            # RFC 7301 §3.2: a server that shares none of the offered protocols ends the handshake.
            chosen = _choose_protocol(own, bytes(_ffi.buffer(offered, offered_length)))
            if chosen is None:
                return int(_lib.SSL_TLSEXT_ERR_ALERT_FATAL)
            position, length = chosen
            out[0], out_length[0] = offered + position, length
            return int(_lib.SSL_TLSEXT_ERR_OK)

        signature = "int (*)(SSL *, unsigned char **, unsigned char *, unsigned char *, unsigned int, void *)"
        self._alpn_callback = _ffi.callback(signature, select, error=_lib.SSL_TLSEXT_ERR_ALERT_FATAL)
        _lib.SSL_CTX_set_alpn_select_cb(self._raw, self._alpn_callback, _ffi.NULL)

    @property
    def _raw(self) -> Any:
        return self._context._context  # noqa: SLF001


class Link:
    """One ``SSL`` over two memory BIOs. Statuses come back; `errors` holds what a failed call left behind."""

    __slots__ = ("__weakref__", "_connection", "_eof", "_factory", "_incoming", "_outgoing", "_ssl", "errors", "judge")

    def __init__(self, factory: LinkFactory, connection: SSL.Connection, judge: Judge, now: datetime) -> None:
        # The factory's callbacks are called by OpenSSL as long as there is a connection: they must not go before it.
        self._factory = factory
        self.judge = judge
        self._connection = connection
        self._ssl: Any = connection._ssl  # noqa: SLF001
        self._incoming: Any = connection._into_ssl  # noqa: SLF001
        self._outgoing: Any = connection._from_ssl  # noqa: SLF001
        self._eof = False
        self.errors: tuple[LibraryError, ...] = ()
        _lib.X509_VERIFY_PARAM_set_time(_lib.SSL_get0_param(self._ssl), int(now.timestamp()))

    @property
    def address(self) -> int:
        """Where the ``SSL`` lives: how a callback finds its link."""
        return _address(self._ssl)

    def do_handshake(self) -> Status:
        """Go on with the handshake as far as the bytes at hand allow."""
        _lib.ERR_clear_error()
        return self._status(_lib.SSL_do_handshake(self._ssl))

    def read_into(self, buffer: memoryview) -> tuple[int, Status]:
        """Decrypt as many records as are at hand straight into ``buffer``; ``DONE`` means that the buffer is full."""
        with _ffi.from_buffer("char[]", buffer, require_writable=True) as data:
            room, filled = min(len(data), _MAX_CALL_BYTES), 0
            _lib.ERR_clear_error()
            while filled < room:
                result = _lib.SSL_read(self._ssl, data + filled, room - filled)
                if result <= 0:
                    return filled, self._status(result)
                filled += result
        return filled, Status.DONE

    def write(self, data: Buffer) -> tuple[int, Status]:
        """Encrypt all of ``data``, at most 2 GiB; return how much was taken."""
        with _ffi.from_buffer("char[]", data) as source:
            if not len(source):
                return 0, Status.DONE
            _lib.ERR_clear_error()
            result = _lib.SSL_write(self._ssl, source, min(len(source), _MAX_CALL_BYTES))
        return (result, Status.DONE) if result > 0 else (0, self._status(result))

    def send_close_notify(self) -> Status:
        """End our direction (RFC 9846 §6.1); the peer's stays open."""
        _lib.ERR_clear_error()
        result = _lib.SSL_shutdown(self._ssl)
        return Status.DONE if result >= 0 else self._status(result)

    def feed(self, data: Buffer) -> None:
        """Take bytes from the network."""
        with _ffi.from_buffer("char[]", data) as source:
            taken = 0
            while taken < len(source):
                result = _lib.BIO_write(self._incoming, source + taken, min(len(source) - taken, _MAX_CALL_BYTES))
                if result <= 0:
                    drain_errors()
                    raise PlatformError("OpenSSL has no memory for incoming bytes", reason="memory")
                taken += result

    def feed_eof(self) -> None:
        """The network will give no more."""
        self._eof = True
        _lib.BIO_set_mem_eof_return(self._incoming, 0)

    @property
    def outgoing_bytes(self) -> int:
        """How many bytes wait for the network."""
        return _pending(self._outgoing)

    def take(self, max_bytes: int) -> bytes:
        """Return bytes for the network, ``b""`` when there are none."""
        count = min(max_bytes, self.outgoing_bytes)
        if count <= 0:
            return b""
        buffer = _allocate_unzeroed("char[]", count)
        result = _lib.BIO_read(self._outgoing, buffer, count)
        return bytes(_ffi.buffer(buffer, result)[:])

    def take_into(self, buffer: memoryview) -> int:
        """Put bytes for the network into ``buffer``; return how many, 0 when there are none."""
        with _ffi.from_buffer("char[]", buffer, require_writable=True) as target:
            return max(int(_lib.BIO_read(self._outgoing, target, min(len(target), _MAX_CALL_BYTES))), 0)

    def release_buffers(self) -> None:
        """Exchange the BIOs, which never shrink, for fresh ones, if both are empty."""
        if self._eof or _pending(self._incoming) or _pending(self._outgoing):
            return
        incoming, outgoing = _lib.BIO_new(_lib.BIO_s_mem()), _lib.BIO_new(_lib.BIO_s_mem())
        if _ffi.NULL in (incoming, outgoing):
            raise PlatformError("OpenSSL has no memory for another buffer", reason="memory")
        # SSL_set_bio takes over both and frees the old ones; the connection object keeps bare pointers to them.
        _lib.SSL_set_bio(self._ssl, incoming, outgoing)
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
        return bool(_lib.SSL_session_reused(self._ssl))

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The leaf the peer proved to own."""
        raw = _lib.SSL_get_peer_certificate(self._ssl)
        return None if raw == _ffi.NULL else _to_certificate(raw, owned=True)

    def exporter(self, label: bytes, length_bytes: int) -> bytes:
        """Return keying material bound to this connection (RFC 9846 §7.5)."""
        return self._connection.export_keying_material(label, length_bytes, b"")

    def _status(self, result: int) -> Status:
        if result > 0:
            return Status.DONE
        error = _lib.SSL_get_error(self._ssl, result)
        if error in {_lib.SSL_ERROR_WANT_READ, _lib.SSL_ERROR_WANT_WRITE}:
            return Status.WANT_READ
        if error == _lib.SSL_ERROR_ZERO_RETURN:
            return Status.CLOSED
        self.errors = drain_errors()
        if error == _lib.SSL_ERROR_SYSCALL and not self.errors:
            # OpenSSL before 3.0 reports an end of the stream this way.
            self.errors = (LibraryError(0, "unexpected eof while reading"),)
        return Status.FAILED


def drain_errors() -> tuple[LibraryError, ...]:
    """Empty the thread's error queue and return what it held."""
    errors = []
    while code := _lib.ERR_get_error():
        text = _lib.ERR_reason_error_string(code)
        said = "" if text == _ffi.NULL else _ffi.string(text).decode("utf-8", "replace")
        errors.append(LibraryError(int(_lib.ERR_GET_REASON(code)), said))
    return tuple(errors)


def _new_context() -> SSL.Context:
    try:
        return SSL.Context(SSL.TLS_METHOD)
    except SSL.Error as error:
        # Nothing of ours is in it yet: only a configuration file can have spoilt it.
        sentence = f"OpenSSL makes no TLS context with the configuration file in force: {_said(error)}"
        raise PlatformError(sentence, reason="openssl_conf") from error


def _choose_protocol(own: Sequence[bytes], offered: bytes) -> tuple[int, int] | None:
    """Return position and length of our most preferred protocol in the client's list (RFC 7301 §3.1)."""
    found: dict[bytes, int] = {}
    position = 0
    while position < len(offered):
        length = offered[position]
        found.setdefault(offered[position + 1 : position + 1 + length], position + 1)
        position += 1 + length
    return next(((found[name], len(name)) for name in own if name in found), None)


def _pending(bio: Any) -> int:
    return int(_lib.BIO_get_mem_data(bio, _ffi.new("char **")))


def _address(pointer: Any) -> int:
    return int(_ffi.cast("uintptr_t", pointer))


def _to_certificate(raw: Any, *, owned: bool) -> x509.Certificate:
    if not owned:
        _lib.X509_up_ref(raw)
    wrapped = crypto.X509._from_raw_x509_ptr(raw)  # noqa: SLF001
    return x509.load_der_x509_certificate(crypto.dump_certificate(crypto.FILETYPE_ASN1, wrapped))


def _said(error: Exception) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in entries) or str(error) or type(error).__name__
