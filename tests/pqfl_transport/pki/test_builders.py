"""What certificates consist of: identifiers by the standard, names of one federation, no life beyond the issuer's."""

import hashlib
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import builders
from pqfl_transport.pki.constraints import EVERY_ADDRESS
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import Role, SpiffeId

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
CONSTRAINTS = builders.constraints_of("fed", hosts=("example.org",))
ROOT = builders.root("fed", "root", KEY.public_key(), CONSTRAINTS, now=NOW, days=10, path_length=0).sign(KEY, SHA256())
BANK = SpiffeId("fed", Role.SITE, "bank")


@pytest.mark.parametrize(
    "key", [KEY.public_key(), mldsa.MLDSA44PrivateKey.generate().public_key()], ids=["ecdsa", "mldsa"]
)
def test_the_key_identifier_is_of_the_bit_string(key: builders.PublicKey) -> None:
    """RFC 7093 method 1 over what the SPKI's BIT STRING holds, which ends the SPKI for both kinds of keys."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    length = 65 if isinstance(key, ec.EllipticCurvePublicKey) else 1312
    assert builders.key_identifier(key).digest == hashlib.sha256(spki[-length:]).digest()[:20]


def test_a_root_may_sign_leaves_of_its_federation_only() -> None:
    """Path length, key usage and the name constraint are there and critical."""
    kinds = (x509.BasicConstraints, x509.KeyUsage, x509.NameConstraints)
    found = [ROOT.extensions.get_extension_for_class(kind) for kind in kinds]
    assert all(one.critical for one in found)
    assert found[0].value == x509.BasicConstraints(ca=True, path_length=0)
    assert found[2].value == CONSTRAINTS


@pytest.mark.parametrize(
    ("hosts", "permitted", "excluded"),
    [
        (None, [], None),
        ((), [], [x509.DNSName(""), *EVERY_ADDRESS]),
        (("example.org",), [x509.DNSName("example.org")], [*EVERY_ADDRESS]),
        (("10.0.0.0/8",), [x509.IPAddress(IPv4Network("10.0.0.0/8"))], [x509.DNSName("")]),
        (
            ("example.org", "2001:db8::/32"),
            [x509.DNSName("example.org"), x509.IPAddress(IPv6Network("2001:db8::/32"))], None,
        ),
    ],
)  # fmt: skip
def test_hosts_that_are_not_permitted_are_excluded(
    hosts: tuple[str, ...] | None, permitted: list[x509.GeneralName], excluded: list[x509.GeneralName] | None
) -> None:
    """Who is told domains alone permits no addresses, and the other way round; who is told nothing permits all."""
    first = [x509.UniformResourceIdentifier("fed"), x509.RFC822Name(".invalid")]
    made = builders.constraints_of("fed", hosts=hosts)
    assert (made.permitted_subtrees, made.excluded_subtrees) == ([*first, *permitted], excluded)
    named = builders.constraints_of("fed", directory=True).permitted_subtrees
    assert named == [*first, x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fed")]))]


def test_a_host_that_the_issuer_does_not_permit_is_not_signed() -> None:
    """The sentence has the host and what is permitted."""
    for name in (x509.DNSName("fl.example.com"), x509.IPAddress(IPv4Address("10.0.0.1"))):
        with pytest.raises(
            ConfigurationError, match=r"10.0.0.1.*excludes it|example.com.*permits only 'example.org'"
        ) as no:
            builders.leaf(ROOT, BANK, KEY.public_key(), Usage.CLIENT, (name,), now=NOW, seconds=3600)
        assert no.value.reason == "bad_host"
    builders.leaf(ROOT, BANK, KEY.public_key(), Usage.CLIENT, (x509.DNSName("*.example.org"),), now=NOW, seconds=3600)


def test_a_leaf_has_one_use_and_one_name() -> None:
    """Extended key usage and URI are exactly what was asked for; the identifiers lead to the issuer."""
    made = builders.leaf(ROOT, BANK, KEY.public_key(), Usage.CLIENT, (), now=NOW, seconds=3600).sign(KEY, SHA256())
    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [Usage.CLIENT.oid]
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://fed/site/bank")]
    above = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert above.key_identifier == ROOT.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert made.not_valid_after_utc == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("party", "seconds", "reason"),
    [
        (SpiffeId("other", Role.SITE, "bank"), 3600, "bad_name"),
        (BANK, 59, "bad_validity"),
        (BANK, 10 * 86400 + 1, "bad_validity"),
    ],
)
def test_what_an_issuer_does_not_sign(party: SpiffeId, seconds: int, reason: str) -> None:
    """No other federation, nothing too short to be used, nothing beyond its own end."""
    with pytest.raises(ConfigurationError) as caught:
        builders.leaf(ROOT, party, KEY.public_key(), Usage.CLIENT, (), now=NOW, seconds=seconds)
    assert caught.value.reason == reason
