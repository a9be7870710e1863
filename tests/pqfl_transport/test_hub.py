import tracemalloc
from pathlib import Path

import pytest

from pqfl_transport.errors import CertificateError, MessageError, PeerError, TransportError
from pqfl_transport.hub import Hub
from pqfl_transport.net.address import Address
from pqfl_transport.pki.keystore import load_anchors, root_keys
from pqfl_transport.pki.roster import MAX_ROSTER_BYTES, open_roster
from pqfl_transport.pki.spiffe import Role as Party
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.pki.tokens import service_id
from pqfl_transport.tls.config import TlsIdentity
from tests.support.enrolment import root_sha256, serving
from tests.support.pki import Federation, make_federation

SERVICE = service_id("fed")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("fed"), sites=("north",))


def identity(folder: Path) -> TlsIdentity:
    return TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")


def test_signed_documents_are_for_everybody(federation: Federation) -> None:
    """Somebody with nothing but the root's fingerprint gets authorities and roster; there is no list yet."""
    with serving(federation) as service:
        hub = Hub.pinned(service.address, root_sha256(federation), SERVICE, federation.authority.policy)
        assert hub.get("/v1/ca") == federation.ca_pem.read_bytes()
        roster = open_roster(hub.get("/v1/roster"), root_keys(load_anchors(federation.ca_pem)))
        assert roster.federation == "fed"
        for path in ("/v1/none", "/v1/../issuing.key", "/issuing.key"):
            with pytest.raises(MessageError) as caught:
                hub.get(path)
            assert caught.value.reason == "not_found"


def test_each_message_is_made_for_its_connection(federation: Federation) -> None:
    """The exporter that a request is made with is another one on every connection, and both ends have it."""
    seen: list[bytes] = []

    def make(binding: bytes) -> bytes:
        seen.append(binding)
        return b"{}"

    with serving(federation) as service:
        hub = Hub.known(service.address, identity(federation.site("north")), SERVICE, federation.authority.policy)
        for _ in range(2):
            with pytest.raises(MessageError):
                hub.post("/v1/renew", make)
    assert len(set(seen)) == 2
    assert {len(binding) for binding in seen} == {32}


@pytest.mark.parametrize("wrong", ["root", "service"])
def test_nothing_is_sent_to_anybody_else(federation: Federation, wrong: str) -> None:
    """With another root or another service's ID no request reaches the other end."""
    root = bytes(32) if wrong == "root" else root_sha256(federation)
    expected = SpiffeId("fed", Party.GATEWAY, "hub") if wrong == "service" else SERVICE
    with serving(federation) as service:
        with pytest.raises((CertificateError, PeerError)) as caught:
            Hub.pinned(service.address, root, expected, federation.authority.policy).post("/v1/join", lambda _: b"{}")
        assert caught.value.reason == {"root": "wrong_root", "service": "not_allowed"}[wrong]
        assert service.requests == []


def test_a_closed_port_is_the_networks_fault(federation: Federation) -> None:
    """Nobody there is a ``TransportError`` that names the address."""
    with serving(federation) as service:
        address = service.address
    hub = Hub.known(address, identity(federation.site("north")), SERVICE, federation.authority.policy)
    with pytest.raises(TransportError, match=str(address)):
        hub.get("/v1/ca")


def test_an_answer_has_a_limit(federation: Federation) -> None:
    """More bytes than were asked for are not taken, and an answer that says so itself is not read at all."""
    good = federation.roster.read_bytes()
    with serving(federation) as service:
        hub = Hub.known(service.address, identity(federation.site("north")), SERVICE, federation.authority.policy)
        with pytest.raises(TransportError) as caught:
            hub.get("/v1/ca", max_bytes=100)
        assert caught.value.reason == "too_large"
        with (federation.ca / "roster.json").open("r+b") as roster:
            roster.truncate(MAX_ROSTER_BYTES + 1)
        tracemalloc.start()
        with pytest.raises(TransportError) as caught:
            hub.get("/v1/roster", max_bytes=MAX_ROSTER_BYTES)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        federation.roster.write_bytes(good)
    assert caught.value.reason == "too_large"
    assert peak_bytes < 16 << 20


def test_the_address_may_be_a_name(federation: Federation) -> None:
    """The service is known by its SPIFFE ID, so any name that leads to it will do."""
    with serving(federation) as service:
        hub = Hub.pinned(
            Address("localhost", service.address.port), root_sha256(federation), SERVICE, federation.authority.policy
        )
        assert hub.get("/v1/ca")
