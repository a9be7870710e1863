"""The library's face for other libraries: an ``ssl.SSLContext`` whose connections are `TlsEngine`s.

asyncio, ``aiohttp.web`` and ``aiohttp.ClientSession`` take it as ``ssl=context`` and notice nothing: `wrap_bio` gives
what asyncio drives over two memory BIOs, `wrap_socket` a blocking socket. What was negotiated and who is there is
``ssl_object.peer`` (`PeerFacts`); a refusal is an ``ssl.SSLError`` with our `PeerError` as its cause and its reason in
the text.

Whatever could weaken the policy (other certificates, ciphers, versions, no verification) raises ``ConfigurationError``:
a call that had no effect would be worse than one that fails.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.passphrases import chosen
from pqfl_transport.policy import DEFAULT_LEVEL, Policy, SecurityLevel, for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from pqfl_transport.tls.facts import refuse
from pqfl_transport.tls.objects import PostQuantumObject
from pqfl_transport.tls.sockets import TlsSocket


def server_context(  # noqa: PLR0913 -- one call says everything; all but the files are keywords
    cert: Path | str,
    key: Path | str,
    cacert: Path | str,
    *,
    allow_uris: str | Sequence[str] = (),
    allow_dns: str | Sequence[str] = (),
    allow_all: bool = False,
    level: SecurityLevel | str = DEFAULT_LEVEL,
    alpn: Sequence[str] = (),
    passphrase_file: Path | None = None,
) -> ssl.SSLContext:
    """Return the context of a server that lets in these SPIFFE IDs, these DNS names, or everybody of its federation.

    The passphrase of an encrypted key comes from ``passphrase_file``, of mode 0600, or from ``PQFL_PASSPHRASE``.

    Raises ``ConfigurationError`` naming the file or the rule that is wrong, ``PlatformError`` where the libcrypto lacks
    an algorithm of the level.
    """
    allowed = AllowedPeers(uris=_several(allow_uris), dns=_several(allow_dns), any_of_federation=allow_all)
    identity = TlsIdentity.load(cert, key, cacert, chosen(passphrase_file))
    return PostQuantumContext(TlsConfig(Role.SERVER, identity, for_level(level), allowed, tuple(alpn)))


def client_context(  # noqa: PLR0913 -- one call says everything; all but the files are keywords
    cert: Path | str,
    key: Path | str,
    cacert: Path | str,
    *,
    verify_uri: str | Sequence[str] | None = None,
    verify_dns: str | Sequence[str] | None = None,
    level: SecurityLevel | str = DEFAULT_LEVEL,
    alpn: Sequence[str] = (),
    passphrase_file: Path | None = None,
) -> ssl.SSLContext:
    """Return the context of a client that expects one of these SPIFFE IDs or DNS names.

    Without either, the server's certificate has to name the host connected to. Raises as `server_context` does.
    """
    allowed = AllowedPeers(uris=_several(verify_uri), dns=_several(verify_dns))
    identity = TlsIdentity.load(cert, key, cacert, chosen(passphrase_file))
    return PostQuantumContext(TlsConfig(Role.CLIENT, identity, for_level(level), allowed, tuple(alpn)))


def fetching_context(anchors_pem: bytes, policy: Policy, federation: str | None) -> ssl.SSLContext:
    """Return the context of a client that fetches what is signed and public, from any server of its federation.

    It shows no certificate. Without a federation the server's certificate has to name the host connected to. Raises
    ``ConfigurationError`` for the authorities, as `client_context` does.
    """
    allowed = AllowedPeers(uris=() if federation is None else (f"spiffe://{federation}/**",))
    identity = TlsIdentity.of_nobody(anchors_pem)
    return PostQuantumContext(TlsConfig(Role.CLIENT, identity, policy.post_quantum_half, allowed))


class PostQuantumContext(ssl.SSLContext):
    """One end's configuration, as the type that other libraries expect."""

    _ready = False

    def __new__(cls, config: TlsConfig) -> Self:
        """Make the standard library's part, which is never used for a connection."""
        is_server = config.role is Role.SERVER
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, config: TlsConfig) -> None:
        self._tls = TlsContext(config)
        # What other libraries may read there is what holds here.
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.verify_mode = ssl.CERT_REQUIRED
        self._ready = True

    @property
    def config(self) -> TlsConfig:
        """The configuration in force."""
        return self._tls.config

    def take_on(self, config: TlsConfig) -> None:
        """Use another configuration of the same end from the next connection on, as with a renewed certificate."""
        if config.role is not self.config.role:
            raise ConfigurationError(f"this context is a {self.config.role.value}'s", reason="wrong_role")
        self._tls = TlsContext(config)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: object = None,
    ) -> PostQuantumObject:
        """Start a connection over two memory BIOs, as asyncio does. ``session`` has to be None: nothing is resumed."""
        name = _host(server_hostname)
        engine = self._new_engine(server_side, name, session)
        return PostQuantumObject(engine, self.config, self, (incoming, outgoing), name)

    def wrap_socket(  # type: ignore[override]
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: object = None,
    ) -> TlsSocket:
        """Start a connection over a connected socket, which is taken over. A cut stream is never taken for its end."""
        del suppress_ragged_eofs
        name = _host(server_hostname)
        wrapped = TlsSocket(sock, self._new_engine(server_side, name, session), self.config, self, name)
        if do_handshake_on_connect:
            try:
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
        return wrapped

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        """Offer, or accept, these application protocols from the next connection on."""
        protocols = tuple(alpn_protocols)
        if protocols != self.config.alpn:
            self._tls = TlsContext(replace(self.config, alpn=protocols))

    def get_ca_certs(self, binary_form: bool = False) -> Any:
        """Return the trusted roots and issuing certificates, as DER; there is no other form here."""
        if not binary_form:
            refuse("get_ca_certs(binary_form=False)")
        from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415 -- rarely asked for

        return [anchor.public_bytes(Encoding.DER) for anchor in self.config.identity.anchors]

    def _new_engine(self, server_side: bool, server_hostname: str | None, session: object) -> TlsEngine:
        if bool(server_side) is not (self.config.role is Role.SERVER):
            raise ConfigurationError(
                f"this context is a {self.config.role.value}'s and was used for the other side", reason="wrong_role"
            )
        if session is not None:
            raise ConfigurationError("no session is ever resumed", reason="session")
        return self._tls.new_engine(server_hostname)

    def __setattr__(self, name: str, value: object) -> None:
        # Setting what is already so is harmless and what some libraries do; everything else would be ignored.
        if not self._ready or name == "_tls":
            super().__setattr__(name, value)
        elif getattr(self, name, None) != value:
            refuse(f"{name} = {value!r}")


def _refusing(name: str) -> Callable[..., NoReturn]:
    def method(self: ssl.SSLContext, *arguments: object, **options: object) -> NoReturn:
        del self, arguments, options
        refuse(f"{name}()")

    method.__name__ = name
    method.__doc__ = "Raise ``ConfigurationError``: this cannot be changed after the context was made."
    return method


# Also what a later version of Python adds: a setter that nobody has looked at must not seem to work.
for _name in dir(ssl.SSLContext):
    if _name.startswith(("set_", "load_")) and _name not in vars(PostQuantumContext):
        setattr(PostQuantumContext, _name, _refusing(_name))


def _several(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _host(name: str | bytes | None) -> str | None:
    return (name.decode("ascii") if isinstance(name, bytes) else name) or None
