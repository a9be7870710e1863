"""TLS peers that follow none of our rules: plain pyOpenSSL with any certificate, version and group."""

import copy
from pathlib import Path
from typing import Any, Self

from OpenSSL import SSL, crypto

from pqfl_transport.errors import PeerError
from pqfl_transport.tls.engine import TlsEngine

GROUP = "X25519MLKEM768"
_FLIGHTS = 8
_READ_BYTES = 1 << 20
_PRE_SHARED_KEY = 41


class RawPeer:
    """One end over memory BIOs that accepts everybody. ``folder`` has ``tls.pem`` and ``tls.key``; None has neither."""

    def __init__(
        self,
        folder: Path | None,
        *,
        server: bool,
        groups: str = GROUP,
        versions: tuple[int, int] = (SSL.TLS1_3_VERSION, SSL.TLS1_3_VERSION),
    ) -> None:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(versions[0])
        context.set_max_proto_version(versions[1])
        lib: Any = SSL._lib  # type: ignore[attr-defined]
        assert lib.SSL_CTX_set1_curves_list(context._context, groups.encode()) == 1  # type: ignore[attr-defined]
        if folder is not None:
            context.use_certificate_file(str(folder / "tls.pem"))
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, (folder / "tls.key").read_bytes())
            assert lib.SSL_CTX_use_PrivateKey(context._context, key._pkey) == 1  # type: ignore[attr-defined]
        context.set_verify(SSL.VERIFY_PEER if server else SSL.VERIFY_NONE, lambda *_: True)
        self._context = context
        self._begin(server=server)

    def again(self) -> Self:
        """The same client once more, which asks to resume the session it has."""
        session = self.connection.get_session()
        assert session is not None
        other = copy.copy(self)
        other._begin(server=False)
        other.connection.set_session(session)
        return other

    def _begin(self, *, server: bool) -> None:
        self.connection = SSL.Connection(self._context, None)
        (self.connection.set_accept_state if server else self.connection.set_connect_state)()
        self.error: str | None = None
        self.complete = False
        self.first_flight = b""

    @property
    def asked_to_resume(self) -> bool:
        """Whether a client's first message brought a session (RFC 9846 §4.2.11)."""
        return _PRE_SHARED_KEY in _offered_extensions(self.first_flight)

    @property
    def resumed(self) -> bool:
        """Whether the other side took the session that was asked for."""
        lib: Any = SSL._lib  # type: ignore[attr-defined]
        return bool(lib.SSL_session_reused(self.connection._ssl))  # type: ignore[attr-defined]

    def step(self) -> None:
        """Go on with the handshake; a failure is kept as OpenSSL's own words."""
        if self.complete or self.error is not None:
            return
        try:
            self.connection.do_handshake()
            self.complete = True
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            self.error = "; ".join(entry[-1] for entry in error.args[0]) if error.args else "closed"

    def take(self) -> bytes:
        """Return what is for the network."""
        try:
            data = self.connection.bio_read(_READ_BYTES)
        except SSL.WantReadError:
            return b""
        self.first_flight = self.first_flight or data
        return data

    def receive(self, data: bytes) -> None:
        """Take what came from the network."""
        if data:
            self.connection.bio_write(data)

    def read(self) -> str:
        """Try to read; return what the other side's alert says, or the text that came."""
        try:
            return self.connection.recv(100).decode()
        except SSL.WantReadError:
            return "nothing"
        except SSL.Error as error:
            return "; ".join(entry[-1] for entry in error.args[0])


def _offered_extensions(hello: bytes) -> set[int]:
    """The extensions of a ClientHello that is one record (RFC 9846 §4.1.2)."""
    position = 5 + 4 + 2 + 32
    position += 1 + hello[position]
    position += 2 + int.from_bytes(hello[position : position + 2], "big")
    position += 1 + hello[position] + 2
    found = set()
    while position < len(hello):
        found.add(int.from_bytes(hello[position : position + 2], "big"))
        position += 4 + int.from_bytes(hello[position + 2 : position + 4], "big")
    return found


def shake_hands_raw(engine: TlsEngine, raw: RawPeer) -> PeerError | None:
    """Carry the flights between our engine and a raw peer; return our refusal, if we refuse."""
    refusal: PeerError | None = None
    for _ in range(_FLIGHTS):
        try:
            if refusal is None:
                engine.do_handshake()
        except PeerError as error:
            refusal = error
        raw.receive(engine.data_to_send())
        raw.step()
        engine.receive(raw.take())
    return refusal


def shake_hands(client: TlsEngine, server: TlsEngine) -> dict[str, int]:
    """Carry the flights between two engines until both are done; return how many bytes each sent."""
    sent = {"client": 0, "server": 0, "server_first_flight": 0}
    done = {"client": False, "server": False}
    ends = {"client": client, "server": server}
    for _ in range(_FLIGHTS):
        for name, other in (("client", "server"), ("server", "client")):
            try:
                done[name] = ends[name].do_handshake()
            finally:
                data = b"".join(iter(ends[name].data_to_send, b""))
                ends[other].receive(data)
            sent[name] += len(data)
            if name == "server" and not sent["server_first_flight"]:
                sent["server_first_flight"] = len(data)
        if all(done.values()):
            return sent
    raise AssertionError("the handshake does not end")
