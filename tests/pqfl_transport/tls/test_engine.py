"""The engine: mutual post-quantum handshakes, every refusal with its reason on both sides, ends that are told apart."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.policy import SecurityLevel, for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.engine import TlsContext, TlsEngine
from tests.support import pki
from tests.support.pki import Federation, make_federation
from tests.support.rawtls import RawPeer, shake_hands, shake_hands_raw

TLS_1_2 = (SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


def identity(folder: Path, ca: Path | None = None) -> TlsIdentity:
    return TlsIdentity.load(folder / "tls.pem", folder / "tls.key", ca or folder / "ca.pem")


def server_context(federation: Federation, **options: Any) -> TlsContext:
    facts: dict[str, Any] = {
        "identity": identity(federation.gateway), "policy": federation.authority.policy,
        "allowed": AllowedPeers(any_of_federation=True),
    }  # fmt: skip
    return TlsContext(TlsConfig(Role.SERVER, **(facts | options)))


def client_context(federation: Federation, **options: Any) -> TlsContext:
    facts: dict[str, Any] = {
        "identity": identity(federation.site(federation.sites[0])), "policy": federation.authority.policy,
        "allowed": AllowedPeers(uris=(federation.gateway_uri,)),
    }  # fmt: skip
    return TlsContext(TlsConfig(Role.CLIENT, **(facts | options)))


def pair(federation: Federation) -> tuple[TlsEngine, TlsEngine]:
    client, server = client_context(federation).new_engine(), server_context(federation).new_engine()
    shake_hands(client, server)
    return client, server


def carry(source: TlsEngine, target: TlsEngine) -> None:
    target.receive(b"".join(iter(source.data_to_send, b"")))


def read_all(engine: TlsEngine) -> bytes:
    buffer = memoryview(bytearray(1 << 16))
    return b"".join(bytes(buffer[:count]) for count in iter(lambda: engine.read_into(buffer), 0))


@pytest.mark.parametrize("level", list(SecurityLevel))
def test_every_level_shakes_hands_with_what_its_policy_lists(tmp_path: Path, level: SecurityLevel) -> None:
    """Group, cipher suite, both signatures and both names are asserted and reported on both ends."""
    federation = make_federation(tmp_path, level=level, sites=("bank-a",))
    client, server = pair(federation)
    policy = for_level(level)
    for end in (client, server):
        assert end.peer.group == policy.groups[0]
        assert end.peer.cipher_suite in policy.tls_suites
        assert end.peer.own_sigalg == end.peer.peer_sigalg == policy.leaf_keys[0]
    assert str(client.peer.id) == federation.gateway_uri
    assert str(server.peer.id) == federation.site_uri("bank-a")


def test_the_handshake_is_on_a_diet(federation: Federation) -> None:
    """Leaves only and no tickets: all of it below 24 kB, the server's first flight inside the first window."""
    sent = shake_hands(client_context(federation).new_engine(), server_context(federation).new_engine())
    assert sent["client"] + sent["server"] < 24_000
    assert sent["server_first_flight"] < 14_600


def test_nothing_is_resumed(federation: Federation) -> None:
    """A client of one context that connects twice shakes hands twice, with keys of its own each time."""
    client_side, server_side = client_context(federation), server_context(federation)
    keys = set()
    for _ in range(2):
        client, server = client_side.new_engine(), server_side.new_engine()
        shake_hands(client, server)
        assert client.exporter(b"EXPORTER-test") == server.exporter(b"EXPORTER-test")
        keys.add(client.exporter(b"EXPORTER-test"))
    assert len(keys) == 2


def test_a_client_that_asks_for_its_old_session_does_not_get_it(federation: Federation) -> None:
    """The ticket that a client holds is not honoured: it shakes hands in full, certificates and judgement included."""
    context = server_context(federation)
    first = RawPeer(federation.site("bank-a"), server=False)
    server = context.new_engine()
    assert shake_hands_raw(server, first) is None
    # Tickets come after the handshake, so they are read like data.
    assert first.read() == "nothing"
    second = first.again()
    server = context.new_engine()
    assert shake_hands_raw(server, second) is None
    assert second.asked_to_resume
    assert not second.resumed
    assert server.peer.id.name == "bank-a"


@given(data=st.binary(max_size=70_000), cuts=st.lists(st.integers(0, 80_000), max_size=6))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_bytes_arrive_however_the_network_cuts_them(federation: Federation, data: bytes, cuts: list[int]) -> None:
    """Records that come in any pieces give the same plaintext."""
    client, server = pair(federation)
    assert client.write(data) == len(data)
    wire = b"".join(iter(client.data_to_send, b""))
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    got = b""
    for start, end in itertools.pairwise(edges):
        server.receive(wire[start:end])
        got += read_all(server)
    assert got == data


def test_each_direction_ends_alone(federation: Federation) -> None:
    """After the client's end the server still sends, and the other way round nothing is left open."""
    client, server = pair(federation)
    client.write(b"question")
    client.send_close_notify()
    client.send_close_notify()
    carry(client, server)
    assert read_all(server) == b"question"
    assert server.peer_closed
    server.write(b"answer")
    server.send_close_notify()
    carry(server, client)
    assert read_all(client) == b"answer"
    assert client.peer_closed
    with pytest.raises(ConfigurationError, match="after close_notify"):
        client.write(b"more")


def test_an_end_without_close_notify_is_a_truncation(federation: Federation) -> None:
    """What came before is given out; then the cut is an error, and it stays one."""
    client, server = pair(federation)
    client.write(b"half of a mess")
    carry(client, server)
    server.receive_eof()
    buffer = memoryview(bytearray(100))
    assert server.read_into(buffer) == 14
    for _ in range(2):
        with pytest.raises(PeerError) as caught:
            server.read_into(buffer)
        assert caught.value.reason == "truncated"
    assert server.failure is caught.value
    with pytest.raises(PeerError):
        server.write(b"more")


def test_a_changed_record_ends_the_connection(federation: Federation) -> None:
    """One flipped bit on the wire is a failure on both ends, and no plaintext comes out."""
    client, server = pair(federation)
    client.write(b"message")
    wire = bytearray(b"".join(iter(client.data_to_send, b"")))
    wire[-1] ^= 1
    server.receive(wire)
    with pytest.raises(PeerError, match="did not decrypt") as caught:
        server.read_into(memoryview(bytearray(100)))
    assert caught.value.reason == "protocol"
    carry(server, client)
    with pytest.raises(PeerError, match="bad record mac"):
        client.read_into(memoryview(bytearray(100)))


def test_plaintext_waits_for_the_handshake(federation: Federation) -> None:
    """Neither reading, nor writing, nor asking who is there works before the peer was accepted."""
    engine = client_context(federation).new_engine()
    for use in (lambda: engine.write(b"x"), lambda: engine.read_into(memoryview(bytearray(1))), lambda: engine.peer):
        with pytest.raises(ConfigurationError, match="not complete"):
            use()


def test_buffers_can_be_given_back_at_any_time(federation: Federation) -> None:
    """Releasing memory in the middle of a conversation loses nothing."""
    client, server = pair(federation)
    for number in range(3):
        client.write(b"x" * 50_000)
        data = client.data_to_send()
        client.release_buffers()
        server.receive(data)
        server.release_buffers()
        assert read_all(server) == b"x" * 50_000, number
        server.release_buffers()


def test_our_reading_is_the_librarys_reading(federation: Federation) -> None:
    """What `read_into` gives is what pyOpenSSL's public recv gives for the same bytes."""
    raw = RawPeer(federation.site("bank-a"), server=False)
    server = server_context(federation).new_engine()
    assert shake_hands_raw(server, raw) is None
    text = b"the same plaintext" * 100
    server.write(text)
    raw.receive(b"".join(iter(server.data_to_send, b"")))
    assert raw.connection.recv(10_000) == text
    raw.connection.send(text)
    server.receive(raw.take())
    assert read_all(server) == text


@pytest.mark.parametrize("oddity", list(pki.ODDITIES), ids=lambda oddity: oddity.__name__)
@pytest.mark.parametrize("role", ["site", "gateway"])
def test_certificates_with_one_thing_wrong(
    federation: Federation, tmp_path: Path, oddity: pki.Oddity, role: str
) -> None:
    """Each is refused by either end for its own reason, and the peer gets an alert and no plaintext."""
    folder = oddity(federation, tmp_path / "odd", role)
    trusting = tmp_path / "both.pem"
    # Even where the odd authority is trusted, what is classical about it is refused.
    trusted = [federation.ca_pem] if pki.ODDITIES[oddity] == "untrusted" else [federation.ca_pem, folder / "ca.pem"]
    trusting.write_bytes(b"".join(path.read_bytes() for path in dict.fromkeys(trusted)))
    raw = RawPeer(folder, server=role == "gateway")
    if role == "site":
        engine = server_context(federation, identity=identity(federation.gateway, trusting)).new_engine()
    else:
        engine = client_context(federation, identity=identity(federation.site("bank-a"), trusting)).new_engine()
    refusal = shake_hands_raw(engine, raw)
    assert refusal is not None
    # A peer that can sign with nothing we offer shows no certificate, or ends the handshake by itself.
    unable = "no_client_cert" if role == "site" else "no_pq_group"
    assert refusal.reason == (unable if oddity is pki.classical else pki.ODDITIES[oddity])
    assert raw.error or raw.read().startswith(("ssl", "tls")) or "alert" in raw.read()
    assert not engine.handshake_complete


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (lambda folder: RawPeer(folder, server=False, groups="x25519:secp256r1"), "no_pq_group"),
        (lambda folder: RawPeer(folder, server=False, groups="MLKEM512"), "no_pq_group"),
        (lambda folder: RawPeer(folder, server=False, groups="x25519", versions=TLS_1_2), "protocol"),
        (lambda _folder: RawPeer(None, server=False), "no_client_cert"),
    ],
    ids=["classical only", "ML-KEM-512 only", "TLS 1.2", "no certificate"],
)
def test_clients_that_offer_too_little(federation: Federation, raw: Callable[[Path], RawPeer], reason: str) -> None:
    """Classical groups, an old version, no certificate: refused with the reason, and told so."""
    peer = raw(federation.site("bank-a"))
    refusal = shake_hands_raw(server_context(federation).new_engine(), peer)
    assert refusal is not None
    assert refusal.reason == reason
    assert "alert" in (peer.error or peer.read())


@pytest.mark.parametrize("groups", ["x25519:secp256r1", "MLKEM768"])
def test_servers_that_know_no_group_of_ours(federation: Federation, groups: str) -> None:
    """A classical-only server fails the client's handshake, which says that no group is shared."""
    raw = RawPeer(federation.gateway, server=True, groups=groups)
    refusal = shake_hands_raw(client_context(federation).new_engine(), raw)
    assert refusal is not None
    assert refusal.reason == "no_pq_group"


def test_a_server_that_speaks_tls_1_2(federation: Federation) -> None:
    """An old server is refused by the version and not by an exception of the library's."""
    raw = RawPeer(federation.gateway, server=True, groups="x25519", versions=TLS_1_2)
    refusal = shake_hands_raw(client_context(federation).new_engine(), raw)
    assert refusal is not None
    assert refusal.reason == "protocol"


def test_a_weaker_leaf_than_the_policy_lists(federation: Federation, tmp_path: Path) -> None:
    """An ML-DSA-44 certificate of a trusted authority opens nothing where the policy lists 65: it is not asked for."""
    lower = make_federation(tmp_path / "lower", level="standard", sites=("bank-a",))
    both = tmp_path / "both.pem"
    both.write_bytes(federation.ca_pem.read_bytes() + lower.ca_pem.read_bytes())
    engine = server_context(federation, identity=identity(federation.gateway, both)).new_engine()
    refusal = shake_hands_raw(engine, RawPeer(lower.site("bank-a"), server=False))
    assert refusal is not None
    assert refusal.reason == "no_client_cert"


def test_directions_are_not_exchanged(federation: Federation) -> None:
    """A gateway's certificate opens no connection, and a site's serves none."""
    refusal = shake_hands_raw(server_context(federation).new_engine(), RawPeer(federation.gateway, server=False))
    assert refusal is not None
    assert refusal.reason == "bad_usage"
    raw = RawPeer(federation.site("bank-b"), server=True)
    refusal = shake_hands_raw(client_context(federation).new_engine(), raw)
    assert refusal is not None
    assert refusal.reason == "bad_usage"


@pytest.mark.parametrize(
    ("server_options", "client_options", "refusing"),
    [
        ({"allowed": AllowedPeers(uris=("spiffe://fed/site/bank-b",))}, {}, "server"),
        ({}, {"allowed": AllowedPeers(uris=("spiffe://fed/gateway/other",))}, "client"),
        ({}, {"allowed": AllowedPeers(dns=("hub.example.org",))}, "client"),
    ],
)
def test_who_is_not_on_the_list(
    federation: Federation, server_options: dict[str, Any], client_options: dict[str, Any], refusing: str
) -> None:
    """The refusing end says whom it refused; the other learns by an alert that it is not allowed."""
    client = client_context(federation, **client_options).new_engine()
    server = server_context(federation, **server_options).new_engine()
    with pytest.raises(PeerError) as caught:
        shake_hands(client, server)
    assert caught.value.reason == "not_allowed"
    learn: Callable[[], object] = server.do_handshake
    if refusing == "server":
        learn = lambda: client.read_into(memoryview(bytearray(10)))  # noqa: E731
    with pytest.raises(PeerError, match="does not allow us") as told:
        learn()
    assert told.value.reason == "not_allowed"


def test_host_names_are_checked_where_nobody_is_named(federation: Federation) -> None:
    """Without rules the certificate has to name the host; without a host nobody is accepted."""
    context = client_context(federation, allowed=AllowedPeers())
    shake_hands(context.new_engine("localhost"), server_context(federation).new_engine())
    shake_hands(context.new_engine("127.0.0.1"), server_context(federation).new_engine())
    with pytest.raises(PeerError) as caught:
        shake_hands(context.new_engine("hub.example.org"), server_context(federation).new_engine())
    assert caught.value.reason == "bad_name"
    with pytest.raises(ConfigurationError, match="whom it expects"):
        context.new_engine()


def test_application_protocols(federation: Federation) -> None:
    """The server's preference decides among those offered; none in common ends the handshake."""
    client = client_context(federation, alpn=("http/1.1", "h2"))
    server = server_context(federation, alpn=("h2", "http/1.1"))
    one, two = client.new_engine(), server.new_engine()
    shake_hands(one, two)
    assert one.peer.alpn == two.peer.alpn == "h2"
    with pytest.raises(PeerError, match="application protocol"):
        shake_hands(client.new_engine(), server_context(federation, alpn=("imap",)).new_engine())


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", bytes(2000)])
def test_garbage_is_not_tls(federation: Federation, garbage: bytes) -> None:
    """Whatever else comes to the port is refused as a broken protocol."""
    engine = server_context(federation).new_engine()
    engine.receive(garbage)
    with pytest.raises(PeerError) as caught:
        engine.do_handshake()
    assert caught.value.reason == "protocol"


def test_a_peer_that_goes_away_in_the_handshake(federation: Federation) -> None:
    """An end in the middle of the handshake is a truncation."""
    engine = client_context(federation).new_engine()
    assert engine.do_handshake() is False
    engine.receive_eof()
    with pytest.raises(PeerError) as caught:
        engine.do_handshake()
    assert caught.value.reason == "truncated"


def test_the_key_has_to_fit_the_certificate(federation: Federation) -> None:
    """Another party's key is refused when the context is made, with both files named."""
    mixed = TlsIdentity.load(
        federation.gateway / "tls.pem", federation.site("bank-a") / "tls.key", federation.ca_pem
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"tls\.key .*gateway/tls\.pem") as caught:
        server_context(federation, identity=mixed)
    assert caught.value.reason == "key_mismatch"
