"""What is asserted of a peer after the handshake: even a library that misbehaved would not get past it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pqfl_transport.errors import CertificateError, PeerError
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import for_level
from pqfl_transport.tls.peers import CertifiedPeer, Negotiated, check_connection, check_host

PEER = CertifiedPeer(
    id=SpiffeId.parse("spiffe://fed/gateway/hub"), dns=("hub.example.org",), ip=("10.0.0.1", "2001:db8::1"),
    sigalg="ML-DSA-65", serial_number=7, not_after=datetime(2030, 1, 1, tzinfo=UTC), fingerprint=b"f" * 32,
)  # fmt: skip
GOOD = Negotiated(
    version="TLSv1.3", group="X25519MLKEM768", cipher_suite="TLS_AES_256_GCM_SHA384", alpn="h2", session_reused=False,
    peer_fingerprint=b"f" * 32,
)  # fmt: skip


def test_a_good_connection_gives_the_evidence() -> None:
    """Everything that log and metrics show is in the facts."""
    facts = check_connection(PEER, GOOD, policy=for_level("high"), own_sigalg="ML-DSA-65")
    assert (facts.group, facts.cipher_suite, facts.alpn) == ("X25519MLKEM768", "TLS_AES_256_GCM_SHA384", "h2")
    assert (str(facts.id), facts.own_sigalg, facts.peer_sigalg) == (str(PEER.id), "ML-DSA-65", "ML-DSA-65")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "TLSv1.2"}, "protocol"),
        ({"session_reused": True}, "protocol"),
        ({"group": "x25519"}, "no_pq_group"),
        ({"group": None}, "no_pq_group"),
        ({"cipher_suite": "TLS_AES_128_GCM_SHA256"}, "protocol"),
        ({"cipher_suite": None}, "protocol"),
        ({"peer_fingerprint": b"x" * 32}, "protocol"),
        ({"peer_fingerprint": None}, "protocol"),
    ],
)
def test_anything_outside_the_policy_is_refused(changes: dict[str, object], reason: str) -> None:
    """Version, resumption, group, suite, and that the certificate is the one that was checked."""
    with pytest.raises(PeerError) as caught:
        check_connection(PEER, replace(GOOD, **changes), policy=for_level("high"), own_sigalg="ML-DSA-65")  # type: ignore[arg-type]
    assert caught.value.reason == reason


def test_a_handshake_without_a_judged_certificate_is_refused() -> None:
    """No verdict on the certificate is no acceptance."""
    with pytest.raises(PeerError):
        check_connection(None, GOOD, policy=for_level("high"), own_sigalg="ML-DSA-65")


def test_the_own_signature_is_asserted_too() -> None:
    """An own certificate outside the policy is not shown to anybody."""
    with pytest.raises(PeerError):
        check_connection(PEER, GOOD, policy=for_level("high"), own_sigalg="ECDSA-P256")


@pytest.mark.parametrize(
    "host", ["hub.example.org", "HUB.example.ORG", "hub.example.org.", "10.0.0.1", "2001:DB8:0::1"]
)
def test_hosts_that_match(host: str) -> None:
    """Names match whatever their case and final dot, addresses in any spelling."""
    check_host(PEER, host)


@pytest.mark.parametrize("host", ["example.org", "x.hub.example.org", "hub", "10.0.0.2", "", "hub.example.org:443"])
def test_hosts_that_do_not(host: str) -> None:
    """Nothing matches in part, and there are no wildcards."""
    with pytest.raises(CertificateError) as caught:
        check_host(PEER, host)
    assert caught.value.reason == "bad_name"
