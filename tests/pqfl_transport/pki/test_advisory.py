"""Signed advisories: the root's word comes back as it was, and nobody replays, forges or waters it down."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.algorithms import CONTENT_SUITES, TABLE
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.advisory import (
    MAX_ADVISORY_BYTES,
    MAX_WITHDRAWALS,
    Seen,
    digest_of,
    open_advisory,
    sign_advisory,
)
from pqfl_transport.pki.documents import DocumentKind, sign_document
from pqfl_transport.policy import Advisory, Verdict, Withdrawal

ROOT = SigningKey.from_seed("ML-DSA-87", bytes(32))
ROOTS = [ROOT.verifying_key]
NOW = 1_800_000_000
GOOD = Advisory(
    "fed", 7, NOW - 100, NOW + 100,
    (Withdrawal("SecP256r1MLKEM768", Verdict.BROKEN, 0, "a paper"), Withdrawal("RSA", Verdict.DEPRECATED, 5, "old")),
)  # fmt: skip
SEEN = Seen(7, digest_of(GOOD))


def opened(advisory: Advisory, **options: Any) -> Advisory:
    return open_advisory(sign_advisory(advisory, ROOT), ROOTS, **({"now": NOW} | options))


def refusal(advisory: Advisory, **options: Any) -> str:
    with pytest.raises(MessageError, match="advisory/v1: ") as caught:
        opened(advisory, **options)
    return caught.value.reason


def payload() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.loads(sign_advisory(GOOD, ROOT))["payload"])
    return value


NAMES = st.sampled_from(
    [*(row.name for row in TABLE), *(word for row in TABLE for word in row.aliases), *CONTENT_SUITES]
)
MOMENTS = st.integers(0, 253_402_300_799)
LINES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=100)


@st.composite
def advisories(draw: st.DrawFn) -> Advisory:
    """Any advisory the root can sign."""
    issued = draw(st.integers(0, 253_402_300_798))
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    withdrawals = [Withdrawal(name, draw(st.sampled_from(Verdict)), draw(MOMENTS), draw(LINES)) for name in names]
    end = draw(st.integers(issued + 1, 253_402_300_799))
    return Advisory("fed", draw(st.integers(1, 2**63 - 1)), issued, end, tuple(withdrawals))


@settings(max_examples=40, deadline=None)
@given(signed=advisories())
def test_round_trip(signed: Advisory) -> None:
    """Every advisory comes back as it was signed; its digest is that of what it says, not of the signature."""
    assert opened(signed, now=signed.issued_at, federation="fed") == signed
    again = opened(signed, now=signed.issued_at, seen=Seen(signed.number, digest_of(signed)))
    assert digest_of(again) == digest_of(signed)
    assert digest_of(replace(signed, expires_at=signed.expires_at + 1)) != digest_of(signed)


def test_a_replayed_advisory_is_refused() -> None:
    """A lower number than the one seen, however good its signature."""
    assert refusal(replace(GOOD, number=6), seen=SEEN) == "stale_advisory"
    assert opened(replace(GOOD, number=8, withdrawals=()), seen=SEEN).number == 8


def test_a_number_has_one_content() -> None:
    """The same number once more is the same advisory or none."""
    assert opened(GOOD, seen=SEEN) == GOOD
    assert refusal(replace(GOOD, withdrawals=GOOD.withdrawals[:1]), seen=SEEN) == "stale_advisory"
    assert refusal(replace(GOOD, expires_at=NOW + 10_000), seen=SEEN) == "stale_advisory"


def test_an_expired_advisory_is_refused_unless_it_was_taken_while_it_was_good() -> None:
    """Who is new has to get the current one; who has it keeps it, because nothing else is stricter."""
    assert refusal(GOOD, now=NOW + 100) == "expired"
    assert refusal(GOOD, now=NOW + 100, seen=Seen(6, bytes(32))) == "expired"
    assert opened(GOOD, now=NOW + 100, seen=SEEN) == GOOD


def test_another_federations_advisory_is_refused() -> None:
    """Roots are one thing, names another."""
    assert refusal(GOOD, federation="other") == "wrong_federation"


@pytest.mark.parametrize("seed", [1, 2])
def test_only_the_root_signs(seed: int) -> None:
    """An issuing authority's key, or anybody's, is not enough."""
    key = SigningKey.from_seed("ML-DSA-65" if seed == 1 else "ML-DSA-87", bytes([seed]) * 32)
    with pytest.raises(MessageError) as caught:
        open_advisory(sign_advisory(GOOD, key), ROOTS, now=NOW)
    assert caught.value.reason == "unknown_signer"


def test_a_changed_advisory_is_refused() -> None:
    """One letter of it is enough; and a roster's signature is none."""
    data = sign_advisory(GOOD, ROOT)
    roster = sign_document(DocumentKind.ROSTER, payload(), ROOT).replace(b"roster/v1", b"advisory/v1")
    for forged in (data.replace(b"SecP256r1MLKEM768", b"SecP384r1MLKEM768"), roster):
        with pytest.raises(MessageError) as caught:
            open_advisory(forged, ROOTS, now=NOW)
        assert caught.value.reason == "bad_signature"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 0}, "malformed"),
        ({"number": True}, "malformed"),
        ({"federation": "Fed"}, "malformed"),
        ({"expires_at": NOW - 100}, "malformed"),
        ({"expires_at": 2**60}, "malformed"),
        ({"more": 1}, "malformed"),
        ({"withdrawn": [3]}, "malformed"),
        ({"withdrawn": payload()["withdrawn"][:1] * 2}, "malformed"),
        ({"withdrawn": [{"algorithm": f"x{n}"} for n in range(MAX_WITHDRAWALS + 1)]}, "malformed"),
    ],
)
def test_a_form_that_is_none_is_refused(change: dict[str, Any], reason: str) -> None:
    """Also where the root really signed it."""
    with pytest.raises(MessageError) as caught:
        open_advisory(sign_document(DocumentKind.ADVISORY, payload() | change, ROOT), ROOTS, now=NOW)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"algorithm": "ML-KEM-786"}, "unknown_algorithm"),
        ({"algorithm": "x" * 101}, "malformed"),
        ({"status": "standard"}, "malformed"),
        ({"not_before": -1}, "malformed"),
        ({"why": ""}, "malformed"),
        ({"why": "two\nlines"}, "malformed"),
        ({"why": "\x1b[2J"}, "malformed"),
        ({"why": "x" * 501}, "malformed"),
    ],
)
def test_one_bad_withdrawal_refuses_the_whole(change: dict[str, Any], reason: str) -> None:
    """A line that is skipped would leave in force what was meant to go."""
    damaged = payload()
    damaged["withdrawn"][0] |= change
    with pytest.raises(MessageError) as caught:
        open_advisory(sign_document(DocumentKind.ADVISORY, damaged, ROOT), ROOTS, now=NOW)
    assert caught.value.reason == reason


def test_the_signer_refuses_what_no_reader_would_take() -> None:
    """The mistake shows at the ceremony and not at the sites."""
    with pytest.raises(MessageError):
        sign_advisory(replace(GOOD, withdrawals=(Withdrawal("ROT13", Verdict.BROKEN, 0, "x"),)), ROOT)


def test_its_size_is_capped() -> None:
    """Before anything of it is parsed."""
    with pytest.raises(MessageError) as caught:
        open_advisory(bytes(MAX_ADVISORY_BYTES + 1), ROOTS, now=NOW)
    assert caught.value.reason == "too_large"


@given(data=st.binary(max_size=200))
def test_any_bytes_are_malformed(data: bytes) -> None:
    """No input makes the reader fail in its own way."""
    with pytest.raises(MessageError) as caught:
        open_advisory(data, ROOTS, now=NOW)
    assert caught.value.reason == "malformed"


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=5)
    | st.lists(st.dictionaries(st.sampled_from(["algorithm", "status", "not_before", "why"]), st.text(max_size=3))
               | st.integers(), max_size=2)
)  # fmt: skip


@settings(deadline=None)
@given(
    damaged=st.dictionaries(
        st.sampled_from(["federation", "number", "issued_at", "expires_at", "withdrawn", "more"]), ANYTHING, min_size=1
    )
)
def test_any_field_of_any_kind_is_refused_or_an_advisory(damaged: dict[str, Any]) -> None:
    """Whatever stands in a field that the root signed, the outcome is an advisory or our own error."""
    data = sign_document(DocumentKind.ADVISORY, payload() | damaged, ROOT)
    try:
        found = open_advisory(data, ROOTS, now=0)
    except MessageError as error:
        assert error.reason in {"malformed", "unknown_algorithm", "expired"}  # noqa: PT017 -- both ends are allowed
    else:
        assert open_advisory(sign_advisory(found, ROOT), ROOTS, now=0) == found
