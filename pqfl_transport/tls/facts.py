"""What is known of a connection, under the names that the standard library's TLS objects have for it."""

import ssl
from typing import Any, NoReturn

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.tls.config import Role, TlsConfig
from pqfl_transport.tls.engine import TlsEngine
from pqfl_transport.tls.peers import TLS_1_3, PeerFacts
from pqfl_transport.tls.translation import peer_certificate

# Every cipher suite of every policy has keys of this length.
_CIPHER_BITS = 256
_EXPORTER = "tls-exporter"
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"


def refuse(what: str) -> NoReturn:
    """Raise ``ConfigurationError`` for a call that other contexts obey and that would have no effect here."""
    raise ConfigurationError(
        f"{what} is not possible on a post-quantum context: certificates, authorities, algorithms and who is accepted"
        " are given to server_context or client_context",
        reason="fixed_context",
    )


class ConnectionFacts:
    """The questions that ``ssl.SSLObject`` and ``ssl.SSLSocket`` answer, answered from a `TlsEngine`."""

    _engine: TlsEngine
    _config: TlsConfig
    _context: ssl.SSLContext
    _server_hostname: str | None

    @property
    def peer(self) -> PeerFacts:
        """Who is there and what was negotiated. Raises ``ConfigurationError`` before the handshake is complete."""
        return self._engine.peer

    @property
    def peer_closed(self) -> bool:
        """Whether the peer said that it has ended: tells an end from a cut where the reader of a stream cannot."""
        return self._engine.peer_closed

    @property
    def context(self) -> ssl.SSLContext:
        """The context this was made from."""
        return self._context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        if context is not self._context:
            refuse("another context")

    @property
    def session(self) -> None:
        """Nothing is resumed, so there is nothing to keep."""
        return

    @property
    def session_reused(self) -> bool:
        """Never."""
        return False

    @property
    def server_side(self) -> bool:
        """Whether this is the server's end."""
        return self._config.role is Role.SERVER

    @property
    def server_hostname(self) -> str | None:
        """The host that the client asked for."""
        return self._server_hostname

    def pending(self) -> int:
        """Return how much plaintext can be read without the network."""
        return self._engine.pending_bytes

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate as DER or as the standard library's dictionary, None before there is one."""
        return peer_certificate(self._engine, binary_form=binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """Return the application protocol that was agreed, if any."""
        return self._engine.peer.alpn if self._engine.handshake_complete else None

    def selected_npn_protocol(self) -> None:
        """Return None: NPN is not TLS 1.3."""
        return

    def cipher(self) -> tuple[str, str, int] | None:
        """Return cipher suite, protocol and key length in bits; None before the handshake is complete."""
        if not self._engine.handshake_complete:
            return None
        return self._engine.peer.cipher_suite, TLS_1_3, _CIPHER_BITS

    def shared_ciphers(self) -> None:
        """Return None: not known here."""
        return

    def compression(self) -> None:
        """Return None: TLS 1.3 has none."""
        return

    def version(self) -> str | None:
        """Return the protocol; None before the handshake is complete."""
        return TLS_1_3 if self._engine.handshake_complete else None

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """Return the channel binding ``tls-exporter`` (RFC 9266), the only one that TLS 1.3 defines.

        Raises ``ValueError`` for any other type, as the standard library does.
        """
        if cb_type != _EXPORTER:
            raise ValueError(f"{cb_type} channel binding type not implemented: TLS 1.3 has {_EXPORTER}")
        return self._engine.exporter(_EXPORTER_LABEL)

    def verify_client_post_handshake(self) -> NoReturn:
        """Raise ``ConfigurationError``: clients are verified in the handshake, all of them."""
        refuse("verify_client_post_handshake()")
