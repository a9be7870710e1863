"""Making revocation lists: what is signed is what a reader takes, numbered, complete and with reasons."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.authority import create_issuing, create_root, issue_tls
from pqfl_transport.pki.lists import REASONS, Revoked, sign_crl
from pqfl_transport.pki.profiles import PROFILES
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level
from tests.support.classical import make_root

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
ROOT = create_root("fed", now=NOW)
ISSUING = create_issuing(ROOT, SecurityLevel.HIGH, now=NOW)
ANCHORS = (ROOT.certificate, ISSUING.certificate)
LEAF = issue_tls(
    ISSUING, PROFILES["site"], SpiffeId("fed", Role.SITE, "a"), ISSUING.key.verifying_key, now=NOW, seconds=86400
)


def make(*revoked: Revoked, number: int = 1) -> bytes:
    """A list of the issuing authority."""
    return sign_crl(ISSUING.certificate, ISSUING.key.pyca_key, revoked, number=number, now=NOW, next_update=NOW + WEEK)


@pytest.mark.parametrize("reason", REASONS)
def test_a_revoked_leaf_is_refused_with_its_reason(reason: str) -> None:
    """Whatever the reason, a reader of ours refuses the certificate and can say why."""
    found = open_crls(make(Revoked(LEAF.serial_number, NOW, reason)), ANCHORS, policy=for_level("high"), now=NOW)
    with pytest.raises(CertificateError, match="no reason" if reason == "unspecified" else reason) as caught:
        found.check(LEAF, NOW)
    assert caught.value.reason == "revoked"


@settings(max_examples=10, deadline=None)
@given(serials=st.sets(st.integers(1, 2**159 - 1), max_size=20), number=st.integers(1, 2**63))
def test_what_is_signed_is_what_is_read(serials: set[int], number: int) -> None:
    """Number, serials and next update survive, and nobody else is in it."""
    data = make(*(Revoked(serial, NOW, "superseded") for serial in sorted(serials)), number=number)
    (one,) = open_crls(data, ANCHORS, policy=for_level("high"), now=NOW).lists
    assert (one.number, one.next_update, set(one.revoked)) == (number, NOW + WEEK, serials)


def test_a_root_and_a_classical_authority_sign_lists_too() -> None:
    """ML-DSA-87 and ECDSA, each with the identifier of its key."""
    classical = make_root("classical", begin=NOW)
    assert isinstance(classical.key, ec.EllipticCurvePrivateKey)
    for certificate, key in ((ROOT.certificate, ROOT.key.pyca_key), (classical.certificate, classical.key)):
        pem = sign_crl(certificate, key, (), number=1, now=NOW, next_update=NOW + WEEK)
        assert x509.load_pem_x509_crl(pem).is_signature_valid(certificate.public_key())  # type: ignore[arg-type]


def test_a_hold_is_no_reason() -> None:
    """Nothing that could be lifted again is offered."""
    assert "certificateHold" not in REASONS
    assert {"keyCompromise", "cACompromise", "cessationOfOperation", "privilegeWithdrawn"} <= set(REASONS)
