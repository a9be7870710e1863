"""Our errors and certificates in the standard library's words."""

import ssl

import pytest

from pqfl_transport.errors import PeerError
from pqfl_transport.tls.translation import to_ssl_error


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("truncated", ssl.SSLEOFError),
        ("expired", ssl.SSLCertVerificationError),
        ("not_allowed", ssl.SSLCertVerificationError),
        ("bad_name", ssl.SSLCertVerificationError),
        ("no_pq_group", ssl.SSLError),
        ("protocol", ssl.SSLError),
    ],
)
def test_reasons_become_the_error_that_other_code_expects(reason: str, kind: type[ssl.SSLError]) -> None:
    """A refused certificate, a cut stream and a broken protocol are told apart, and the reason is in the text."""
    error = to_ssl_error(PeerError("the server is wrong", reason=reason))
    assert type(error) is kind
    assert f"[{reason}] the server is wrong" in str(error)


def test_a_refused_certificate_has_a_message_of_its_own() -> None:
    """Libraries show ``verify_message`` to their users."""
    error = to_ssl_error(PeerError("it expired", reason="expired"))
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert error.verify_message == "it expired"
