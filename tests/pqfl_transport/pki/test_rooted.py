from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.authority import Issuer, create_issuing, create_root
from pqfl_transport.pki.rooted import require_vouched_for
from pqfl_transport.policy import SecurityLevel

NOW = datetime.now(UTC)
OLD, NEW, STRANGER = (create_root("fed", now=NOW) for _ in range(3))
ISSUING = create_issuing(OLD, SecurityLevel.STANDARD, now=NOW).certificate


def cross(root: Issuer, signer: Issuer) -> x509.Certificate:
    """The certificate of one root's key and name under another root."""
    own = root.certificate
    builder = x509.CertificateBuilder(
        subject_name=own.subject, issuer_name=signer.certificate.subject, public_key=root.key.verifying_key.pyca_key,
        serial_number=x509.random_serial_number(), not_valid_before=NOW, not_valid_after=NOW + timedelta(days=1),
    )  # fmt: skip
    builder = builder.add_extension(x509.SubjectKeyIdentifier(b"cross-signed"), critical=False)
    return builder.sign(signer.key.pyca_key, None)


def test_the_same_roots_are_taken() -> None:
    """What is trusted already needs nobody to vouch for it."""
    require_vouched_for([OLD.certificate, ISSUING], [OLD.certificate, ISSUING])


@pytest.mark.parametrize("anchors", [[STRANGER.certificate], [OLD.certificate, STRANGER.certificate, ISSUING]])
def test_a_root_that_nobody_vouches_for_is_refused(anchors: list[x509.Certificate]) -> None:
    """A root of the same name is a stranger, alone and beside the good one."""
    with pytest.raises(CertificateError) as caught:
        require_vouched_for(anchors, [OLD.certificate])
    assert caught.value.reason == "wrong_root"


def distinct(number: int) -> Issuer:
    """A root with another name, so that a cross-signed certificate of it is no self-signed one."""
    return replace(create_root(f"fed-{number}", now=NOW))


def test_a_root_that_an_old_one_signed_is_taken() -> None:
    """A new root comes with the certificate that the old one signed for it; so does the one after it."""
    old, new, newest = distinct(1), distinct(2), distinct(3)
    bundle = [new.certificate, cross(new, old), newest.certificate, cross(newest, new)]
    require_vouched_for([*bundle, old.certificate], [old.certificate])
    require_vouched_for(bundle, [old.certificate])
    with pytest.raises(CertificateError):
        require_vouched_for([new.certificate, newest.certificate, cross(newest, new)], [old.certificate])


def test_a_stranger_vouches_for_nobody() -> None:
    """A cross-signed certificate counts only under a root that is trusted, and for its own key."""
    old, new, stranger = distinct(1), distinct(2), distinct(3)
    with pytest.raises(CertificateError):
        require_vouched_for([old.certificate, new.certificate, cross(new, stranger)], [old.certificate])
    with pytest.raises(CertificateError):
        require_vouched_for([old.certificate, stranger.certificate, cross(new, old)], [old.certificate])


def test_some_root_is_there() -> None:
    """Authorities without any root are no authorities."""
    with pytest.raises(CertificateError, match="no root"):
        require_vouched_for([ISSUING], [OLD.certificate])
