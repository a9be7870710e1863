"""Reasons of failures: from alerts, from OpenSSL's errors, and back into the alert that fits."""

import pytest

from pqfl_transport.tls.alerts import LibraryError, explain, received_alert, x509_error

REASONS = {
    "no_pq_group", "no_client_cert", "untrusted", "expired", "revoked", "not_allowed", "bad_sigalg", "bad_usage",
    "bad_name", "truncated", "protocol", "malformed",
}  # fmt: skip


@pytest.mark.parametrize(
    ("alert", "reason"),
    [
        (40, "no_pq_group"),
        (45, "expired"),
        (46, "not_allowed"),
        (48, "untrusted"),
        (116, "no_client_cert"),
        (44, "revoked"),
    ],
)
def test_an_alert_of_the_peer_is_its_reason(alert: int, reason: str) -> None:
    """OpenSSL reports a received alert as its number above 1000; the sentence says who refused whom."""
    errors = (LibraryError(1000 + alert, "tlsv1 alert something"),)
    assert received_alert(errors) == alert
    failure = explain(errors, "server")
    assert failure.reason == reason
    assert failure.sentence.startswith("the server refused us")


def test_an_alert_goes_before_what_followed_from_it() -> None:
    """Errors that OpenSSL adds after an alert do not hide the peer's own reason."""
    errors = (LibraryError(294, "unexpected eof while reading"), LibraryError(1045, "sslv3 alert certificate expired"))
    assert explain(errors, "client").reason == "expired"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no suitable key share", "no_pq_group"),
        ("peer did not return a certificate", "no_client_cert"),
        ("unsupported protocol", "protocol"),
        ("unexpected eof while reading", "truncated"),
        ("http request", "protocol"),
        ("certificate verify failed", "malformed"),
    ],
)
def test_an_error_of_our_own_library_has_a_reason_too(text: str, reason: str) -> None:
    """What OpenSSL found wrong by itself is told in words."""
    failure = explain((LibraryError(1, text),), "client")
    assert failure.reason == reason
    assert text not in failure.sentence or reason == "protocol"


@pytest.mark.parametrize("errors", [(), (LibraryError(9, "something new"),), (LibraryError(1999, "x"),)])
def test_what_is_in_no_table_is_a_broken_protocol(errors: tuple[LibraryError, ...]) -> None:
    """An error nobody listed is still counted and quoted."""
    failure = explain(errors, "server")
    assert failure.reason == "protocol"
    assert (errors[0].text if errors else "no error was given") in failure.sentence


def test_reasons_to_refuse_map_to_errors_of_x509() -> None:
    """Every reason gives an error that is not "accepted"; unknown ones give a general rejection."""
    assert x509_error("expired") == x509_error("not_yet_valid") == 10
    assert all(x509_error(reason) > 0 for reason in REASONS)
    assert x509_error("something else") == x509_error("bad_sigalg")
