from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, PeerError, TransportError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.authority import Issuer, create_issuing, issue_tls
from pqfl_transport.pki.profiles import DAY_SECONDS, Usage, find_profile
from pqfl_transport.pki.tokens import service_id
from pqfl_transport.policy import for_level, leaf_algorithm
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from pqfl_transport.tls.pinning import pinned_anchors, presented_chain
from tests.support.enrolment import root_sha256, serving
from tests.support.pki import Federation, make_federation
from tests.support.sidecars import plain_server


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("fed"), sites=("north",))


def test_a_service_shows_its_chain_and_nothing_is_sent(federation: Federation) -> None:
    """Leaf, issuing authority and root come in the handshake; no request follows it."""
    with serving(federation) as service:
        host, port = service.address.host, service.address.port
        leaf, *above = presented_chain(host, port, federation.authority.policy, timeout_seconds=20)
        assert service.requests == []
    assert str(chain.spiffe_id(leaf)) == "spiffe://fed/gateway/enrolment"
    assert set(above) == set(keystore.load_anchors(federation.ca_pem))


def test_the_pinned_root_brings_the_authorities_beneath_it(federation: Federation) -> None:
    """With the right fingerprint the anchors are those of the federation."""
    leaf = keystore.load_certificate(federation.gateway / "tls.pem")
    anchors = keystore.load_anchors(federation.ca_pem)
    assert set(pinned_anchors([leaf, *anchors], root_sha256(federation))) == set(anchors)


def test_another_root_is_refused_and_never_taken_along(federation: Federation, tmp_path: Path) -> None:
    """Without the pinned root there are no anchors; beside it a stranger's root is left out."""
    stranger = make_federation(tmp_path, sites=())
    leaf = keystore.load_certificate(federation.gateway / "tls.pem")
    theirs = keystore.load_anchors(stranger.ca_pem)
    with pytest.raises(CertificateError) as caught:
        pinned_anchors([leaf, *theirs], root_sha256(federation))
    assert caught.value.reason == "wrong_root"
    both = pinned_anchors([leaf, *keystore.load_anchors(federation.ca_pem), *theirs], root_sha256(federation))
    roots = [one for one in both if chain.is_self_signed(one)]
    assert [one.fingerprint for one in roots]
    assert len(roots) == 1


def test_an_authority_that_only_claims_to_be_under_the_root_vouches_for_nobody(federation: Federation) -> None:
    """It comes along with the root that was pinned, and nothing beneath it verifies: the root has not signed it."""
    now, policy = datetime.now(UTC), federation.authority.policy
    root = keystore.load_certificate(federation.ca / "root.pem")
    forged = create_issuing(Issuer(root, SigningKey.generate("ML-DSA-87")), federation.authority.level, now=now)
    key = SigningKey.generate(leaf_algorithm(policy)).verifying_key
    leaf = issue_tls(
        forged, find_profile("gateway"), service_id(federation.name), key, now=now, seconds=DAY_SECONDS
    )  # fmt: skip
    anchors = pinned_anchors([leaf, forged.certificate, root], root_sha256(federation))
    assert set(anchors) == {root, forged.certificate}
    with pytest.raises(CertificateError) as caught:
        chain.verify_chain(leaf, anchors, policy=policy, usage=Usage.SERVER, now=now)
    assert caught.value.reason == "untrusted"


def test_a_leaf_is_no_root(federation: Federation) -> None:
    """The fingerprint of the service's own certificate, or of an issuing authority's, pins nothing."""
    leaf = keystore.load_certificate(federation.gateway / "tls.pem")
    anchors = keystore.load_anchors(federation.ca_pem)
    issuing = next(one for one in anchors if not chain.is_self_signed(one))
    for wrong in (leaf, issuing):
        with pytest.raises(CertificateError):
            pinned_anchors([leaf, *anchors], wrong.fingerprint(SHA256()))


def test_a_service_of_another_level_is_refused(federation: Federation) -> None:
    """No handshake under another policy completes."""
    with serving(federation) as service, pytest.raises(PeerError):
        presented_chain(service.address.host, service.address.port, for_level("maximum"), timeout_seconds=20)


def test_what_is_no_tls_is_refused_and_nobody_is_an_error() -> None:
    """A plain server and a closed port are told apart from a refusal, and neither hangs."""
    policy = for_level("high")
    with plain_server(lambda connection: connection.sendall(b"220 hello\r\n" * 10)) as target:
        host, port = target.split(":")
        with pytest.raises((PeerError, TransportError)):
            presented_chain(host, int(port), policy, timeout_seconds=20)
    with pytest.raises(TransportError):
        presented_chain(host, int(port), policy, timeout_seconds=20)


def test_a_server_that_sends_its_leaf_alone_gives_no_anchors(federation: Federation) -> None:
    """An ordinary gateway of the federation is not the enrolment service, and shows no root."""
    identity = TlsIdentity.load(
        federation.gateway / "tls.pem", federation.gateway / "tls.key", federation.ca_pem
    )  # fmt: skip
    tls = TlsConfig(Role.SERVER, identity, federation.authority.policy, AllowedPeers(any_of_federation=True))
    with serving(federation, tls=tls) as service:
        presented = presented_chain(
            service.address.host, service.address.port, federation.authority.policy, timeout_seconds=20
        )
    with pytest.raises(CertificateError):
        pinned_anchors(presented, root_sha256(federation))
