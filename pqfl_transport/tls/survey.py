"""What a TLS server negotiates, found out by asking it: a survey of any server, and a connection of ours to none.

A surveyor trusts nothing and refuses nothing: it completes handshakes with expired, self-signed and classical
certificates and says what it saw. So it has contexts of its own, which must never carry data, and this is the one
module beside `libssl` that makes any.
"""

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from cryptography import x509
from OpenSSL import SSL, crypto

from pqfl_transport.algorithms import TABLE, Kind, find
from pqfl_transport.errors import PlatformError, TransportError
from pqfl_transport.pki.chain import key_algorithm_name, signature_algorithm_name
from pqfl_transport.tls import alerts
from pqfl_transport.tls.bindings import drain_errors, ffi, lib
from pqfl_transport.tls.config import TlsIdentity

_READ_BYTES = 16 * 1024
_MAX_HANDSHAKE_BYTES = 1024 * 1024
_MAX_CHAIN_CERTIFICATES = 16
_MAX_NAMES = 32
_MAX_TEXT_CHARACTERS = 256
# How long after a handshake a server of TLS 1.3 may take to say that it wanted a client certificate.
_SECOND_THOUGHT_SECONDS = 0.5
_CLASSICAL = ("x25519", "secp256r1", "secp384r1")
_SIGNATURES = (
    "mldsa44:mldsa65:mldsa87:ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:ed25519:rsa_pss_rsae_sha256:"
    "rsa_pss_rsae_sha384:rsa_pss_pss_sha256:rsa_pkcs1_sha256:rsa_pkcs1_sha384"
)


class ClientCertificate(Enum):
    """What a server thinks of clients without a certificate."""

    NOT_ASKED = "not asked for"
    OPTIONAL = "asked for, and the connection goes on without one"
    REQUIRED = "required"
    SHOWN = "shown and accepted"
    REFUSED = "shown and refused"


@dataclass(frozen=True, slots=True)
class SeenCertificate:
    """A certificate as a server sent it; nobody verified anything."""

    subject: str
    issuer: str
    key: str
    signature: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Handshake:
    """One completed handshake."""

    version: str
    group: str
    cipher_suite: str
    alpn: str | None
    chain: tuple[SeenCertificate, ...]
    client_certificate: ClientCertificate
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A handshake that the server, or OpenSSL, ended."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that was found out."""

    host: str
    port: int
    handshake: Handshake
    """With all groups offered, the post-quantum ones first."""
    groups: dict[str, bool] = field(default_factory=dict)
    """Which of the groups we know it takes, each offered alone."""
    tls_1_2: bool = False

    @property
    def post_quantum_key_exchange(self) -> bool:
        """Whether what is recorded today stays secret from a quantum computer."""
        return _is_post_quantum_group(self.handshake.group)

    @property
    def post_quantum_authentication(self) -> bool:
        """Whether every certificate's key and signature that was sent is post-quantum."""
        return bool(self.handshake.chain) and all(
            _is_post_quantum_signature(seen.key) and _is_post_quantum_signature(seen.signature)
            for seen in self.handshake.chain
        )

    @property
    def classical_fallback(self) -> bool:
        """Whether it also shakes hands with who offers classical groups only."""
        return self.tls_1_2 or any(taken for name, taken in self.groups.items() if not _is_post_quantum_group(name))


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Asks one server."""

    host: str
    port: int
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    identity: TlsIdentity | None = None
    timeout_seconds: float = 10.0

    def survey(self, *, thorough: bool = True) -> Survey:
        """Shake hands with everything offered; if ``thorough``, once more for each group and for TLS 1.2.

        Raises ``TransportError`` where nobody answers, or where what answers does not complete any handshake.
        """
        groups = [row.name for row in TABLE if row.kind is Kind.TLS_GROUP and _works(row.name)]
        first = self._try(groups)
        if isinstance(first, Refusal):
            first = self._try(groups, version=SSL.TLS1_2_VERSION)
        if isinstance(first, Refusal):
            raise TransportError(f"{self._where}: no handshake: {first.detail}", reason=first.reason)
        if not thorough:
            return Survey(self.host, self.port, first)
        taken = {name: self._takes((name,)) for name in groups}
        older = isinstance(self._try(_CLASSICAL, version=SSL.TLS1_2_VERSION), Handshake)
        return Survey(self.host, self.port, first, taken, older)

    @property
    def _where(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def _takes(self, groups: Sequence[str]) -> bool:
        found = self._try(groups)
        return isinstance(found, Handshake) and found.group.casefold() in {name.casefold() for name in groups}

    def _try(self, groups: Sequence[str], version: int = SSL.TLS1_3_VERSION) -> Handshake | Refusal:
        asked: list[bool] = []
        connection = SSL.Connection(self._context(groups, version, asked), None)
        connection.set_connect_state()
        if self.server_name or not _is_address(self.host):
            connection.set_tlsext_host_name((self.server_name or self.host).encode("idna"))
        started = time.monotonic()
        with self._connect() as network:
            refusal = _shake_hands(connection, network, self._where)
            if refusal is not None:
                return refusal
            seconds = time.monotonic() - started
            thought = _second_thought(connection, network)
        return Handshake(
            version=connection.get_protocol_version_name(),
            group=connection.get_group_name() or "none",
            cipher_suite=connection.get_cipher_name() or "none",
            alpn=connection.get_alpn_proto_negotiated().decode("ascii", "replace") or None,
            chain=_chain(connection),
            client_certificate=self._verdict(asked=bool(asked), thought=thought),
            seconds=seconds,
        )

    def _verdict(self, *, asked: bool, thought: Refusal | None) -> ClientCertificate:
        if not asked:
            return ClientCertificate.NOT_ASKED
        if self.identity is not None:
            return ClientCertificate.SHOWN if thought is None else ClientCertificate.REFUSED
        return ClientCertificate.OPTIONAL if thought is None else ClientCertificate.REQUIRED

    def _context(self, groups: Sequence[str], version: int, asked: list[bool]) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        # Whatever the server shows is to be seen, and nothing is sent to it that it could read.
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        names = ":".join(find(name, Kind.TLS_GROUP).openssl_name or name for name in groups)
        raw = context._context  # noqa: SLF001
        if lib.SSL_CTX_set1_curves_list(raw, names.encode()) != 1:
            drain_errors()
            raise PlatformError(f"this OpenSSL does not know all of {names}", reason="missing_algorithm")
        lib.SSL_CTX_set1_sigalgs_list(raw, _SIGNATURES.encode())
        drain_errors()
        if self.alpn:
            context.set_alpn_protos([name.encode() for name in self.alpn])
        self._notice_request(context, asked)
        return context

    def _notice_request(self, context: SSL.Context, asked: list[bool]) -> None:
        """Note whether the server asks for a certificate, and show the one there is."""
        if self.identity is not None:
            context.use_certificate(self.identity.leaf)
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, self.identity.private_key_pem, b"")
            lib.SSL_CTX_use_PrivateKey(context._context, key._pkey)  # noqa: SLF001

        @ffi.callback("int (*)(SSL *, void *)")  # type: ignore[untyped-decorator]
        def called(_ssl: object, _argument: object) -> int:
            asked.append(True)
            return 1

        lib.SSL_CTX_set_cert_cb(context._context, called, ffi.NULL)  # noqa: SLF001
        # OpenSSL calls it as long as the context lives.
        context._pqfl_callback = called  # type: ignore[attr-defined]  # noqa: SLF001

    def _connect(self) -> socket.socket:
        try:
            return socket.create_connection((self.host, self.port), timeout=self.timeout_seconds)
        except TimeoutError:
            raise TransportError(f"{self._where} does not answer", reason="target_down") from None
        except OSError as error:
            raise TransportError(f"{self._where}: {error.strerror or error}", reason="target_down") from error


def _shake_hands(connection: SSL.Connection, network: socket.socket, where: str) -> Refusal | None:
    received = 0
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            _send(connection, network)
        except SSL.Error as error:
            _send(connection, network)
            return _refusal(error)
        else:
            _send(connection, network)
            return None
        try:
            data = network.recv(_READ_BYTES)
        except TimeoutError:
            raise TransportError(
                f"{where} accepts connections and says nothing: no TLS server?", reason="timeout"
            ) from None
        except OSError as error:
            return Refusal("truncated", f"the server broke the connection off ({error.strerror or error})")
        received += len(data)
        if not data or received > _MAX_HANDSHAKE_BYTES:
            return Refusal("truncated", "the server closed the connection without a word")
        connection.bio_write(data)


def _second_thought(connection: SSL.Connection, network: socket.socket) -> Refusal | None:
    """Wait a moment for what a server of TLS 1.3 says after the client is done already."""
    network.settimeout(_SECOND_THOUGHT_SECONDS)
    until = time.monotonic() + _SECOND_THOUGHT_SECONDS
    while time.monotonic() < until:
        try:
            connection.recv(1)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            return None
        except SSL.Error as error:
            return _refusal(error)
        else:
            return None
        try:
            data = network.recv(_READ_BYTES)
        except OSError:
            # Silence, and an end without an alert, say nothing about certificates.
            return None
        if not data:
            return None
        connection.bio_write(data)
    return None


def _send(connection: SSL.Connection, network: socket.socket) -> None:
    with contextlib.suppress(SSL.WantReadError, OSError):
        while True:
            network.sendall(connection.bio_read(_READ_BYTES))


def _refusal(error: SSL.Error) -> Refusal:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    texts = tuple(str(entry[-1]) for entry in entries)
    failure = alerts.explain(tuple(alerts.LibraryError(0, text) for text in texts), "server")
    told = next((text for text in texts if "alert" in text), None)
    return Refusal(failure.reason, told or failure.sentence)


def _chain(connection: SSL.Connection) -> tuple[SeenCertificate, ...]:
    found = connection.get_peer_cert_chain(as_cryptography=True) or []
    return tuple(_seen(certificate) for certificate in found[:_MAX_CHAIN_CERTIFICATES])


def _seen(certificate: x509.Certificate) -> SeenCertificate:
    names: tuple[str, ...] = ()
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(_printable(str(name.value)) for name in list(extension)[:_MAX_NAMES])
    return SeenCertificate(
        subject=_printable(certificate.subject.rfc4514_string()),
        issuer=_printable(certificate.issuer.rfc4514_string()),
        key=key_algorithm_name(certificate),
        signature=signature_algorithm_name(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        names=names,
    )


def _printable(text: str) -> str:
    """Return a stranger's text without what a terminal would obey, and not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_TEXT_CHARACTERS])


def _is_post_quantum_group(name: str) -> bool:
    return "mlkem" in name.casefold()


def _is_post_quantum_signature(name: str) -> bool:
    return name.startswith(("ML-DSA-", "SLH-DSA-"))


def _works(group: str) -> bool:
    """Whether this OpenSSL can offer a group at all."""
    context = SSL.Context(SSL.TLS_METHOD)
    name = find(group, Kind.TLS_GROUP).openssl_name or group
    works = bool(lib.SSL_CTX_set1_curves_list(context._context, name.encode()) == 1)  # noqa: SLF001
    drain_errors()
    return works


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False
