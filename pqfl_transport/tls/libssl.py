"""The door to OpenSSL, through pyOpenSSL: contexts, and the connections they make.

What has no public name in pyOpenSSL is called through `pqfl_transport.tls.bindings`; a connection is a `link.Link`.
"""

import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.tls.bindings import address_of, certificate_der, drain_errors, ffi, lib, openssl_version, said
from pqfl_transport.tls.link import Judge, Link, Session, Status

__all__ = ["Identity", "Judge", "Link", "LinkFactory", "Session", "Settings", "Status", "openssl_version"]

_MODE_NO_AUTO_CHAIN = 0x8
"""SSL_MODE_NO_AUTO_CHAIN, which pyOpenSSL does not name: send the leaf and nothing found in the trust store."""

_SESSION_CONTEXT = b"pqfl"
_SESSIONS_SERVER, _SESSIONS_CLIENT = SSL.SESS_CACHE_SERVER, SSL.SESS_CACHE_CLIENT | SSL.SESS_CACHE_NO_INTERNAL


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and the key that belongs to it."""

    certificate: x509.Certificate
    private_key_pem: bytes = field(repr=False)
    chain_pem: bytes = b""
    """The certificate again with those above it, to be sent with it; empty to send the leaf alone."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a context is made of. Names are OpenSSL's."""

    server: bool
    groups: Sequence[str]
    signature_algorithms: Sequence[str]
    cipher_suites: Sequence[str]
    identities: Sequence[Identity]
    """One, or two of different algorithms: OpenSSL shows the one that the peer can verify."""
    anchors: Sequence[x509.Certificate]
    alpn: Sequence[str] = ()
    resume_seconds: int = 0
    """How long a session may be resumed; 0 for never."""
    client_may_be_nobody: bool = False
    """Server: whether a client may go on without any certificate. One that is shown is judged all the same."""


class LinkFactory:
    """One ``SSL_CTX``: TLS 1.3 only, mutual certificates, nothing resumed. It makes many links and never changes.

    Raises ``PlatformError`` naming an algorithm this libcrypto lacks (one unknown name would drop a whole list in
    silence) or for a bad OpenSSL configuration file, ``ConfigurationError`` where the key does not fit the certificate.
    """

    def __init__(self, settings: Settings) -> None:
        self._server = settings.server
        self._resume_seconds = settings.resume_seconds
        self._links: weakref.WeakValueDictionary[int, Link] = weakref.WeakValueDictionary()
        self._context = _new_context()
        self._context.set_min_proto_version(SSL.TLS1_3_VERSION)
        self._context.set_max_proto_version(SSL.TLS1_3_VERSION)
        self._diet()
        self._set_list("SSL_CTX_set1_curves_list", "TLS group", settings.groups)
        self._set_list("SSL_CTX_set1_sigalgs_list", "signature algorithm", settings.signature_algorithms)
        self._set_list("SSL_CTX_set_ciphersuites", "cipher suite", settings.cipher_suites)
        for identity in settings.identities:
            self._use_identity(identity)
        self._client_may_be_nobody = settings.client_may_be_nobody
        self._trust(settings.anchors)
        self._offer(settings.alpn)

    def new_link(
        self, judge: Judge, *, server_name: str | None, now: datetime, session: "Session | None" = None
    ) -> "Link":
        """Start one connection whose peer ``judge`` decides on; OpenSSL judges certificates as of ``now``.

        ``session`` is one that a link of this factory ended with, to be resumed.
        """
        connection = SSL.Connection(self._context, None)
        if self._server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        if server_name is not None:
            connection.set_tlsext_host_name(server_name.encode("ascii"))
        if session is not None:
            connection.set_session(session)
        link = Link(self, connection, judge, now)
        self._links[link.address] = link
        return link

    def _diet(self) -> None:
        # Each of these keeps bytes or state out of the handshake. OP_NO_TICKET makes tickets small: they name a session
        # that the server keeps, and where it keeps none they are of no use.
        self._context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
        self._context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        self._context.set_session_id(_SESSION_CONTEXT)
        if self._resume_seconds:
            self._context.set_session_cache_mode(_SESSIONS_SERVER if self._server else _SESSIONS_CLIENT)
            self._context.set_timeout(self._resume_seconds)
        else:
            self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self._context.set_mode(_MODE_NO_AUTO_CHAIN | SSL.MODE_RELEASE_BUFFERS)
        # A memory BIO takes everything, so one call may write all of a buffer instead of one record of it.
        self._context.clear_mode(lib.SSL_MODE_ENABLE_PARTIAL_WRITE)

    def _set_list(self, setter: str, what: str, names: Sequence[str]) -> None:
        call = getattr(lib, setter)
        if call(self._raw, ":".join(names).encode()) == 1:
            return
        drain_errors()
        missing = [name for name in names if call(self._raw, name.encode()) != 1]
        drain_errors()
        raise PlatformError(
            f"{openssl_version()} knows no {what} {', '.join(missing) or ', '.join(names)}", reason="missing_algorithm"
        )

    def _use_identity(self, identity: Identity) -> None:
        try:
            self._use_certificate(identity)
            # Not `use_privatekey`: it takes no ML-DSA key of cryptography's and calls its own key class deprecated.
            # Through PEM all three serialisations of an ML-DSA key load (seed, expanded, both).
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, identity.private_key_pem, b"")
            fits = lib.SSL_CTX_use_PrivateKey(self._raw, key._pkey) == 1  # noqa: SLF001
            fits = fits and lib.SSL_CTX_check_private_key(self._raw) == 1
        except (SSL.Error, crypto.Error) as error:
            raise ConfigurationError(f"OpenSSL does not load it: {said(error)}", reason="bad_key") from error
        if not fits:
            drain_errors()
            raise ConfigurationError("it is not the private key of the certificate", reason="key_mismatch")

    def _use_certificate(self, identity: Identity) -> None:
        if not identity.chain_pem:
            self._context.use_certificate(identity.certificate)
            return
        # Only from a file does OpenSSL keep a chain with one certificate of a context and not with all of them.
        with tempfile.NamedTemporaryFile() as file:
            file.write(identity.chain_pem)
            file.flush()
            self._context.use_certificate_chain_file(file.name)

    def _trust(self, anchors: Sequence[x509.Certificate]) -> None:
        store = self._context.get_cert_store()
        if store is None:
            raise PlatformError("OpenSSL has no certificate store", reason="openssl")
        # Every authority here is trusted by itself, so OpenSSL need not verify the issuing one's signature again for
        # each connection; that those hang together was verified once, by `pqfl_transport.pki`.
        store.set_flags(lib.X509_V_FLAG_PARTIAL_CHAIN)
        issuers = {anchor.issuer for anchor in anchors if anchor.issuer != anchor.subject}
        for anchor in anchors:
            store.add_cert(crypto.X509.from_cryptography(anchor))
            if self._server and (anchor.issuer != anchor.subject or anchor.subject not in issuers):
                # Named in the certificate request: some clients send no certificate otherwise. Leaves are issued by
                # the authorities below a root, so a root that has some need not be named.
                self._context.add_client_ca(anchor)
        self._verify_callback = ffi.callback("int (*)(int, X509_STORE_CTX *)", self._verify, error=0)
        mode = SSL.VERIFY_PEER | (0 if self._client_may_be_nobody else SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        lib.SSL_CTX_set_verify(self._raw, mode, self._verify_callback)

    def _verify(self, good: int, store: Any) -> int:
        """Judge the peer's chain while the handshake still can send an alert; called once a certificate by OpenSSL."""
        if good and lib.X509_STORE_CTX_get_error_depth(store) > 0:
            return 1
        ssl = lib.X509_STORE_CTX_get_ex_data(store, lib.SSL_get_ex_data_X509_STORE_CTX_idx())
        link = self._links[address_of(ssl)]
        leaf = certificate_der(lib.X509_STORE_CTX_get0_cert(store), owned=False)
        verdict = link.judge(leaf, 0 if good else lib.X509_STORE_CTX_get_error(store), lambda: _chain(store))
        lib.X509_STORE_CTX_set_error(store, verdict)
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
            chosen = _choose_protocol(own, bytes(ffi.buffer(offered, offered_length)))
            if chosen is None:
                return int(lib.SSL_TLSEXT_ERR_ALERT_FATAL)
            position, length = chosen
            out[0], out_length[0] = offered + position, length
            return int(lib.SSL_TLSEXT_ERR_OK)

        signature = "int (*)(SSL *, unsigned char **, unsigned char *, unsigned char *, unsigned int, void *)"
        self._alpn_callback = ffi.callback(signature, select, error=lib.SSL_TLSEXT_ERR_ALERT_FATAL)
        lib.SSL_CTX_set_alpn_select_cb(self._raw, self._alpn_callback, ffi.NULL)

    @property
    def _raw(self) -> Any:
        return self._context._context  # noqa: SLF001


def _chain(store: Any) -> list[bytes]:
    """Return, as DER, the certificates that OpenSSL put above the leaf: those the peer sent, and an anchor."""
    chain = lib.X509_STORE_CTX_get1_chain(store)
    if chain == ffi.NULL:
        return []
    try:
        return [certificate_der(lib.sk_X509_value(chain, at), owned=False) for at in range(1, lib.sk_X509_num(chain))]
    finally:
        for at in range(lib.sk_X509_num(chain)):
            lib.X509_free(lib.sk_X509_value(chain, at))
        lib.sk_X509_free(chain)


def _new_context() -> SSL.Context:
    try:
        return SSL.Context(SSL.TLS_METHOD)
    except SSL.Error as error:
        # Nothing of ours is in it yet: only a configuration file can have spoilt it.
        sentence = f"OpenSSL makes no TLS context with the configuration file in force: {said(error)}"
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
