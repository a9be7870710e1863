"""The party's side of the enrolment service: one connection a request, each message bound to it by its exporter.

Blocking, because a command has nothing else to do meanwhile; a service calls it in a thread. Who the other end is was
settled in the handshake, before the first byte of a request: the root and the SPIFFE ID are those that were asked for.
"""

import http.client
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.errors import PeerError, PlatformError, TransportError
from pqfl_transport.net.address import Address
from pqfl_transport.pki.documents import MAX_DOCUMENT_BYTES
from pqfl_transport.pki.enrolment import MAX_MESSAGE_BYTES
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import Policy
from pqfl_transport.problems import from_problem
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.context import PostQuantumContext
from pqfl_transport.tls.pinning import pinned_anchors, presented_chain
from pqfl_transport.tls.sockets import TlsSocket

TIMEOUT_SECONDS = 30.0
_CHANNEL_BINDING = "tls-exporter"
_OK = 200


@dataclass(frozen=True, slots=True)
class Hub:
    """An enrolment service that a party knows how to recognise."""

    address: Address
    context: PostQuantumContext
    timeout_seconds: float = TIMEOUT_SECONDS

    @classmethod
    def pinned(
        cls, address: Address, root_sha256: bytes, service: SpiffeId, policy: Policy, *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> "Hub":  # fmt: skip
        """Find a service of which only the root's fingerprint and the SPIFFE ID are known; nothing is sent.

        Raises ``CertificateError`` (``wrong_root``), and what `presented_chain` raises.
        """
        presented = presented_chain(address.host, address.port, policy, timeout_seconds=timeout_seconds)
        anchors = pinned_anchors(presented, root_sha256)
        pem = b"".join(anchor.public_bytes(Encoding.PEM) for anchor in anchors)
        return cls.known(address, TlsIdentity.of_nobody(pem, f"what {address} presents"), service, policy,
                         timeout_seconds=timeout_seconds)  # fmt: skip

    @classmethod
    def known(
        cls, address: Address, identity: TlsIdentity, service: SpiffeId, policy: Policy, *,
        timeout_seconds: float = TIMEOUT_SECONDS, clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> "Hub":  # fmt: skip
        """Describe the service of a federation that one belongs to already. Raises as `TlsConfig` does."""
        allowed = AllowedPeers(uris=(str(service),))
        config = TlsConfig(Role.CLIENT, identity, policy.post_quantum_half, allowed, clock=clock)
        return cls(address, PostQuantumContext(config), timeout_seconds)

    def post(self, path: str, make: Callable[[bytes], bytes]) -> tuple[bytes, bytes]:
        """Send what ``make`` gives for a connection's exporter; return the answer's body and that exporter.

        Raises ``PeerError`` where either end refuses the other, ``TransportError`` where the network fails, and the
        error that the service answers with.
        """
        return self._exchange("POST", path, make, MAX_MESSAGE_BYTES)

    def get(self, path: str, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
        """Return a document that verifies by itself, of at most ``max_bytes``. Raises as `post` does."""
        return self._exchange("GET", path, lambda _binding: b"", max_bytes)[0]

    def _exchange(self, method: str, path: str, make: Callable[[bytes], bytes], max_bytes: int) -> tuple[bytes, bytes]:
        connection = http.client.HTTPSConnection(
            self.address.host, self.address.port, timeout=self.timeout_seconds, context=self.context
        )
        try:
            connection.connect()
            binding = cast("TlsSocket", connection.sock).get_channel_binding(_CHANNEL_BINDING)
            if not binding:
                raise PlatformError("this TLS library gives no exporter to bind a request to", reason="no_exporter")
            connection.request(method, path, make(binding) or None, {"Content-Type": "application/json"})
            response = connection.getresponse()
            if (response.length or 0) > max_bytes:
                raise self._too_large(max_bytes)
            body = response.read(max_bytes + 1)
        except ssl.SSLError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(f"{self.address}: {error or type(error).__name__}", reason="target_down") from error
        finally:
            connection.close()
        if response.status != _OK:
            raise from_problem(response.status, body, str(self.address))
        if len(body) > max_bytes:
            raise self._too_large(max_bytes)
        return body, binding

    def _too_large(self, max_bytes: int) -> TransportError:
        return TransportError(f"{self.address}: answers with more than {max_bytes} bytes", reason="too_large")

    def _refusal(self, error: ssl.SSLError) -> Exception:
        cause = error.__cause__
        if isinstance(cause, PeerError):
            return PeerError(f"{self.address}: {cause}", reason=cause.reason)
        return TransportError(f"{self.address}: {error}", reason="target_down")
