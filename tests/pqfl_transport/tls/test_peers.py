"""What is asserted of a peer after the handshake: even a library that misbehaved would not get past it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pqfl_transport.errors import CertificateError, PeerError
from pqfl_transport.policy import for_level, for_name
from pqfl_transport.tls.peers import Negotiated, check_connection, check_host, fingerprint, read_certificate
from tests.support import classical
from tests.support.peers import certified
from tests.support.pki import make_federation

PEER = certified("spiffe://fed/gateway/hub", dns=("hub.example.org",), ip=("10.0.0.1", "2001:db8::1"))
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


def test_a_session_is_resumed_only_where_that_was_asked_for() -> None:
    """With resumption on it is a fact of the connection; without, a broken library."""
    resumed = replace(GOOD, session_reused=True)
    facts = check_connection(PEER, resumed, policy=for_level("high"), own_sigalg="ML-DSA-65", resumption=True)
    assert facts.resumed
    assert facts.post_quantum


def test_classical_parts_are_told_where_the_policy_serves_them() -> None:
    """Under ``prefer`` a classical group or certificate passes and is called what it is; otherwise it does not pass."""
    policy = for_name("pq-prefer-2026")
    assert not check_connection(PEER, replace(GOOD, group="x25519"), policy=policy, own_sigalg="ML-DSA-65").post_quantum
    old = certified(None, sigalg="ECDSA-P256")
    facts = check_connection(old, GOOD, policy=policy, own_sigalg="ECDSA-P256")
    assert (facts.post_quantum, facts.name, facts.id) == (False, "CN=somebody", None)
    with pytest.raises(PeerError):
        check_connection(old, GOOD, policy=for_level("high"), own_sigalg="ML-DSA-65")


@pytest.mark.parametrize("changed", ["own", "peer"])
@pytest.mark.parametrize("sigalg", ["ML-DSA-44", "secp521r1", "1.2.3.4"])
def test_keys_in_neither_half_of_the_policy_are_refused_during_a_migration_too(changed: str, sigalg: str) -> None:
    """Serving classical peers is two lists and no open door."""
    peer = certified(sigalg=sigalg) if changed == "peer" else PEER
    with pytest.raises(PeerError) as caught:
        check_connection(
            peer, GOOD, policy=for_name("pq-prefer-2026"), own_sigalg=sigalg if changed == "own" else "ML-DSA-65"
        )
    assert caught.value.reason == "protocol"


def subject(*names: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in names])


def test_a_certificate_says_who_its_holder_is(tmp_path: Path) -> None:
    """Names, dates, issuer and both digests are those of the certificate; it counts as post-quantum by its key."""
    federation = make_federation(tmp_path, sites=("bank-a",))
    leaf = x509.load_pem_x509_certificate((federation.gateway / "tls.pem").read_bytes())
    found = read_certificate(leaf)
    assert (str(found.id), found.name) == (federation.gateway_uri, federation.gateway_uri)
    assert (found.dns, found.ip) == (("localhost",), ("127.0.0.1",))
    assert (found.cn, found.ous) == ("hub", ("gateway",))
    assert (found.subject, found.issuer) == ("CN=hub,OU=gateway,O=fed", "CN=issuing,OU=authority,O=fed")
    assert (found.not_before, found.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    assert (found.sigalg, found.classical, found.serial_number) == ("ML-DSA-65", False, leaf.serial_number)
    assert found.fingerprint == hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()
    # The same structure, cut out of the certificate as it came.
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki in leaf.tbs_certificate_bytes
    assert found.spki_sha256 == hashlib.sha256(spki).digest()


def test_a_classical_peer_without_an_id_goes_by_its_dns_name_or_its_subject() -> None:
    """There is always a name, for limits and counters as well."""
    root = classical.make_root("root")
    leaf, _ = classical.make_leaf(root, dns=("a.example", "b.example"))
    found = read_certificate(leaf)
    assert (found.id, found.name, found.classical) == (None, "a.example", True)
    leaf, _ = classical.make_leaf(root, dns=())
    assert read_certificate(leaf).name == "CN=classical leaf"
    leaf, _ = classical.make_leaf(root, dns=(), subject=subject())
    assert read_certificate(leaf).name == f"sha256:{fingerprint(leaf).hex()}"


def test_two_ids_are_none() -> None:
    """Of a classical peer as well: whichever came first would be a guess."""
    uris = ["spiffe://fed/site/bank-a", "spiffe://fed/site/bank-b"]
    leaf, _ = classical.make_leaf(classical.make_root("root"), uris=uris)
    assert (read_certificate(leaf).id, read_certificate(leaf).name) == (None, "localhost")


def test_no_dns_name_passes_for_an_id() -> None:
    """A classical authority that certifies any text as a DNS name makes nobody a member in logs and limits."""
    root = classical.make_root("root")
    leaf, _ = classical.make_leaf(root, dns=("spiffe://fed/site/bank-a", "CN=hub", "a b"))
    assert read_certificate(leaf).name == "CN=classical leaf"
    leaf, _ = classical.make_leaf(root, dns=("spiffe://fed/site/bank-a", "a.example"))
    assert read_certificate(leaf).name == "a.example"


def test_of_two_common_names_none_counts_and_every_unit_does() -> None:
    """The first one and the last one are what two readers would take."""
    both = subject((NameOID.COMMON_NAME, "a"), (NameOID.COMMON_NAME, "b"))
    root = classical.make_root("root")
    assert read_certificate(classical.make_leaf(root, subject=both)[0]).cn is None
    units = subject((NameOID.ORGANIZATIONAL_UNIT_NAME, "x"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "y"))
    found = read_certificate(classical.make_leaf(root, subject=units)[0])
    assert (found.cn, found.ous) == (None, ("x", "y"))
