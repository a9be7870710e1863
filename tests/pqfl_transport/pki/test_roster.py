"""The roster: what the root signed comes back, and nobody adds, changes or brings back a party."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.documents import MAX_DOCUMENT_BYTES, DocumentKind, sign_document
from pqfl_transport.pki.references import CertificateReference
from pqfl_transport.pki.roster import (
    MAX_ROSTER_BYTES,
    MAX_TIME,
    FormerKey,
    Party,
    Roster,
    SecureAggregation,
    open_roster,
    sign_roster,
)
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import SecurityLevel, for_level

ROOT = SigningKey.from_seed("ML-DSA-87", bytes(32))
ROOTS = [ROOT.verifying_key]
SIGNING = {
    algorithm: SigningKey.from_seed(algorithm, bytes([1]) * 32).verifying_key
    for algorithm in ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
}
BEFORE = {
    algorithm: SigningKey.from_seed(algorithm, bytes([3]) * 32).verifying_key
    for algorithm in ("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")
}
URI = "spiffe://fed/site/hospital-north"


def party(
    uri: str = URI,
    *,
    level: SecurityLevel = SecurityLevel.HIGH,
    receiving: bytes = b"key",
    cap: int = 7,
    certificate: CertificateReference | None = None,
    former: FormerKey | None = None,
) -> Party:
    """A party with the keys of a level."""
    signing = SIGNING[for_level(level).leaf_keys[0]]
    return Party(SpiffeId.parse(uri), signing, receiving, hashlib.sha256(receiving).digest(), cap, certificate, former)


def roster(*parties: Party, level: SecurityLevel = SecurityLevel.HIGH, number: int = 5) -> Roster:
    """A roster of these parties."""
    return Roster("fed", level, number, 1_700_000_000, MappingProxyType({str(one.id): one for one in parties}))


GOOD = roster(party(), party("spiffe://fed/aggregator/main", cap=0))


def payload() -> dict[str, Any]:
    """The payload of the good roster, to be damaged."""
    value: dict[str, Any] = json.loads(json.loads(sign_roster(GOOD, ROOT))["payload"])
    return value


def refusal(damaged: dict[str, Any]) -> str:
    """The message with which a roster is refused that the root really signed."""
    with pytest.raises(MessageError, match="roster/v1: ") as caught:
        open_roster(sign_document(DocumentKind.ROSTER, damaged, ROOT), ROOTS)
    assert caught.value.reason == "malformed"
    return str(caught.value)


LABELS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)
COUNTS = st.integers(0, 2**63 - 1)
REFERENCES = st.none() | st.builds(CertificateReference, st.binary(min_size=1, max_size=64), st.integers(1, 2**160 - 1))


@st.composite
def rosters(draw: st.DrawFn) -> Roster:
    """Any roster the root can sign."""
    level = draw(st.sampled_from(SecurityLevel))
    ids = draw(st.sets(st.builds(SpiffeId, st.just("fed"), st.sampled_from(Role), LABELS), max_size=4))
    parties = [
        party(
            str(one),
            level=level,
            receiving=draw(st.binary(max_size=30)),
            cap=draw(COUNTS),
            certificate=draw(REFERENCES),
            former=draw(
                st.none()
                | st.builds(
                    FormerKey, st.just(BEFORE[for_level(level).leaf_keys[0]]), st.integers(0, MAX_TIME), REFERENCES
                )
            ),
        )
        for one in sorted(ids)
    ]
    minimum = draw(st.integers(1, 1000))
    secure = SecureAggregation(
        minimum,
        draw(st.integers(1, minimum)),
        draw(st.floats(0, 1e9, exclude_min=True)),
        draw(st.integers(1, 62)),
    )
    made = roster(*parties, level=level, number=draw(st.integers(1, 2**63 - 1)))
    return replace(made, issued_at=draw(COUNTS), secure_aggregation=secure)


@settings(max_examples=40, deadline=None)
@given(signed=rosters())
def test_round_trip(signed: Roster) -> None:
    """Every roster comes back as it was signed, keys and all."""
    opened = open_roster(sign_roster(signed, ROOT), ROOTS, at_least_number=signed.number, federation="fed")
    assert opened == signed
    for uri, one in signed.parties.items():
        assert opened.party(uri) == one


@given(data=st.binary(max_size=200))
def test_any_bytes_are_malformed(data: bytes) -> None:
    """No input makes the reader fail in its own way."""
    with pytest.raises(MessageError) as caught:
        open_roster(data, ROOTS)
    assert caught.value.reason == "malformed"


@given(
    damaged=st.dictionaries(
        st.sampled_from(["federation", "level", "number", "issued_at", "parties", "secure_aggregation", "more"]),
        st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=5)
        | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        min_size=1,
    )
)  # fmt: skip
def test_any_field_of_any_kind_is_refused_or_a_roster(damaged: dict[str, Any]) -> None:
    """Whatever stands in a field that the root signed, the outcome is a roster or our own error."""
    data = sign_document(DocumentKind.ROSTER, payload() | damaged, ROOT)
    try:
        opened = open_roster(data, ROOTS)
    except MessageError as error:
        assert error.reason == "malformed"  # noqa: PT017 -- both ends are allowed, this reason only
    else:
        assert open_roster(sign_roster(opened, ROOT), ROOTS) == opened


def test_another_root_is_refused() -> None:
    """A roster signed by any key but a root's is refused, the issuing authority's and a party's included."""
    for algorithm in ("ML-DSA-87", "ML-DSA-65"):
        stranger = SigningKey.from_seed(algorithm, bytes([9]) * 32)
        with pytest.raises(MessageError) as caught:
            open_roster(sign_roster(GOOD, stranger), ROOTS)
        assert caught.value.reason == "unknown_signer"


def test_a_forged_party_is_refused() -> None:
    """Exchanging a party's key in a signed roster breaks the root's signature."""
    document = json.loads(sign_roster(GOOD, ROOT))
    mine = SigningKey.from_seed("ML-DSA-65", bytes([2]) * 32).verifying_key
    theirs = base64.b64encode(SIGNING["ML-DSA-65"].spki).decode()
    document["payload"] = document["payload"].replace(theirs, base64.b64encode(mine.spki).decode())
    with pytest.raises(MessageError) as caught:
        open_roster(json.dumps(document).encode(), ROOTS)
    assert caught.value.reason == "bad_signature"


def test_a_round_document_is_no_roster() -> None:
    """A document of another kind is refused even from the root, with its label rewritten or not."""
    document = sign_document(DocumentKind.ROUND, payload(), ROOT)
    for data, reason in ((document, "malformed"), (document.replace(b"round/v1", b"roster/v1"), "bad_signature")):
        with pytest.raises(MessageError) as caught:
            open_roster(data, ROOTS)
        assert caught.value.reason == reason


def test_a_lower_number_is_stale() -> None:
    """Who was left out of a later roster does not come back with an earlier one; the same number may be read again."""
    data = sign_roster(GOOD, ROOT)
    for number in (0, 4, 5):
        assert open_roster(data, ROOTS, at_least_number=number) == GOOD
    with pytest.raises(MessageError, match="number 5 is older than number 6") as caught:
        open_roster(data, ROOTS, at_least_number=6)
    assert caught.value.reason == "stale_roster"


def test_another_federations_roster_is_refused() -> None:
    """One root may serve two federations; their rosters are not exchanged for each other."""
    with pytest.raises(MessageError, match="'fed' and not of 'other'") as caught:
        open_roster(sign_roster(GOOD, ROOT), ROOTS, federation="other")
    assert caught.value.reason == "wrong_federation"


def test_who_is_not_listed_is_unknown() -> None:
    """Looking up a stranger is an error with a name, and a long name is not repeated in full."""
    for uri in ("spiffe://fed/site/hospital-south", "", "x" * 10_000):
        with pytest.raises(MessageError, match="roster 5 of fed") as caught:
            GOOD.party(uri)
        assert caught.value.reason == "unknown_sender"
        assert len(str(caught.value)) < 400


def test_a_party_occurs_once() -> None:
    """Two entries of one ID leave open whose key counts, so there is no such roster."""
    damaged = payload()
    damaged["parties"].append(damaged["parties"][0])
    assert "occurs twice" in refusal(damaged)


OTHER_SPKI = base64.b64encode(SIGNING["ML-DSA-44"].spki).decode()
BAD_PARTIES: list[tuple[str, dict[str, Any]]] = [
    ("is not of federation 'fed'", {"id": "spiffe://other/site/a"}),
    ("is not a SPIFFE ID", {"id": "spiffe://fed/site/A"}),
    ("signing_fingerprint is not", {"signing_fingerprint": "00" * 32}),
    ("receiving_fingerprint is not", {"receiving_fingerprint": "00" * 32}),
    ("receiving_fingerprint is not", {"receiving_key": "AAAA"}),
    ("not base64", {"receiving_key": "?"}),
    ("not base64", {"signing_key": "?"}),
    ("not a public key", {"signing_key": "AAAA"}),
    ("not a public key", {"signing_key": ""}),
    ("ML-DSA-44 does not fit the level high", {"signing_key": OTHER_SPKI}),
    ("weight_cap", {"weight_cap": -1}),
    ("weight_cap", {"weight_cap": 2**63}),
    ("weight_cap", {"weight_cap": 1.5}),
    ("weight_cap", {"weight_cap": True}),
    ("unknown fields", {"more": 1}),
]


@pytest.mark.parametrize(("complaint", "changes"), BAD_PARTIES)
def test_each_wrong_entry_is_named(complaint: str, changes: dict[str, Any]) -> None:
    """A party whose ID, keys, fingerprints or cap do not agree refuses the whole roster."""
    damaged = payload()
    damaged["parties"][1] |= changes
    assert complaint in refusal(damaged)


@pytest.mark.parametrize("field", sorted(payload()["parties"][0]))
def test_every_field_of_a_party_is_needed(field: str) -> None:
    """An entry lacking one of its fields is refused."""
    damaged = payload()
    del damaged["parties"][0][field]
    assert field in refusal(damaged)


@pytest.mark.parametrize("entry", [None, 1, "spiffe://fed/site/a", [], {}])
def test_an_entry_is_an_object(entry: object) -> None:
    """Anything else in the list of parties is refused."""
    refusal(payload() | {"parties": [entry]})


BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("number", {"number": 0}),
    ("number", {"number": 2**63}),
    ("issued_at", {"issued_at": -1}),
    ("level", {"level": "low"}),
    ("is not of federation", {"federation": "other"}),
    ("federation 'Fed'", {"federation": "Fed", "parties": []}),
    ("minimum_sites", {"secure_aggregation": {"minimum_sites": 0, "threshold": 1, "clip": 1, "bits": 1}}),
    ("threshold", {"secure_aggregation": {"minimum_sites": 3, "threshold": 4, "clip": 1, "bits": 1}}),
    ("threshold", {"secure_aggregation": {"minimum_sites": 3, "threshold": 0, "clip": 1, "bits": 1}}),
    ("clip", {"secure_aggregation": {"minimum_sites": 3, "threshold": 1, "clip": 0, "bits": 1}}),
    ("clip", {"secure_aggregation": {"minimum_sites": 3, "threshold": 1, "clip": 2e9, "bits": 1}}),
    ("clip", {"secure_aggregation": {"minimum_sites": 3, "threshold": 1, "clip": 10**400, "bits": 1}}),
    ("bits", {"secure_aggregation": {"minimum_sites": 3, "threshold": 1, "clip": 1, "bits": 63}}),
    ("lacks bits", {"secure_aggregation": {"minimum_sites": 3, "threshold": 1, "clip": 1}}),
]


@pytest.mark.parametrize(("complaint", "changes"), BAD_FIELDS)
def test_each_wrong_field_is_named(complaint: str, changes: dict[str, Any]) -> None:
    """Numbers out of range and unknown levels refuse the roster."""
    assert complaint in refusal(payload() | changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda: replace(GOOD, number=0),
        lambda: replace(GOOD, federation="other"),
        lambda: replace(GOOD, level=SecurityLevel.MAXIMUM),
        lambda: roster(replace(party(), weight_cap=-1)),
        lambda: roster(replace(party(), receiving_fingerprint=bytes(32))),
        lambda: replace(GOOD, secure_aggregation=SecureAggregation(clip=float("nan"))),
    ],
)
def test_what_no_reader_would_take_is_not_signed(change: Callable[[], Roster]) -> None:
    """The root's key is not used for a roster that would strand the federation."""
    with pytest.raises(MessageError):
        sign_roster(change(), ROOT)


def test_parties_cannot_be_added_to_an_opened_roster() -> None:
    """What the signature vouched for stays as it is in memory."""
    opened = open_roster(sign_roster(GOOD, ROOT), ROOTS)
    with pytest.raises(TypeError):
        opened.parties["spiffe://fed/site/x"] = party()  # type: ignore[index]


def test_a_certificate_reference_has_one_form() -> None:
    """It is there as an object with issuer and serial number, or not at all."""
    for value in (None, "aa", {}, {"issuer": "aa", "serial": "00"}, {"issuer": "AA", "serial": "01"}):
        damaged = payload()
        damaged["parties"][0]["signing_certificate"] = value
        assert "signing_certificate" in refusal(damaged)


OVERLAP = replace(party(), former=FormerKey(BEFORE["ML-DSA-65"], 1000))


def test_both_keys_count_until_the_former_one_s_time_is_over() -> None:
    """The last second counts, the next does not, and a key that is in no roster never does."""
    present, former = SIGNING["ML-DSA-65"], BEFORE["ML-DSA-65"]
    assert OVERLAP.signing_keys(1000) == (present, former)
    assert OVERLAP.signing_keys(1000.5) == party().signing_keys(0) == (present,)
    assert OVERLAP.key_for(former.fingerprint, 1000) == former
    for now in (0, 1000, 2e9):
        assert OVERLAP.key_for(present.fingerprint, now) == present
    for fingerprint, now, complaint in (
        (former.fingerprint, 1001, "its time is over"), (SIGNING["ML-DSA-87"].fingerprint, 0, "none of its keys"),
        (b"", 0, "none of its keys"),
    ):  # fmt: skip
        with pytest.raises(MessageError, match=complaint) as caught:
            OVERLAP.key_for(fingerprint, now)
        assert caught.value.reason == "wrong_sender_key"


def test_a_roster_without_overlap_has_the_form_that_it_always_had() -> None:
    """Programs that know nothing of former keys read it, and refuse one with such a key as a whole."""
    assert all("former" not in one for one in payload()["parties"])
    opened = json.loads(json.loads(sign_roster(roster(OVERLAP), ROOT))["payload"])
    assert opened["parties"][0]["former"].keys() == {"signing_key", "signing_fingerprint", "until"}


def former(**changes: Any) -> dict[str, Any]:
    """The former key of a good entry, damaged."""
    key = BEFORE["ML-DSA-65"]
    good = {
        "signing_key": base64.b64encode(key.spki).decode(),
        "signing_fingerprint": key.fingerprint.hex(),
        "until": 5,
    }
    return good | changes


PRESENT = {key: value for key, value in payload()["parties"][1].items() if key.startswith("signing_")}
STRANGER = {"signing_key": OTHER_SPKI, "signing_fingerprint": SIGNING["ML-DSA-44"].fingerprint.hex()}


@pytest.mark.parametrize(
    ("complaint", "value"),
    [
        ("wrong type", None),
        ("lacks signing_fingerprint, signing_key, until", {}),
        ("unknown fields", former(more=1)),
        ("until", former(until=-1)),
        ("until", former(until=MAX_TIME + 1)),
        ("wrong type", former(until="1")),
        ("signing_fingerprint is not", former(signing_fingerprint="00" * 32)),
        ("not a public key", former(signing_key="AAAA")),
        ("is not another key of ML-DSA-65", former(**PRESENT)),
        ("ML-DSA-44 does not fit the level high", former(**STRANGER)),
        ("signing_certificate", former(signing_certificate={})),
    ],
)
def test_each_wrong_former_key_is_named(complaint: str, value: object) -> None:
    """It is another key of the member's algorithm, with an end, or the roster is refused."""
    damaged = payload()
    damaged["parties"][1]["former"] = value
    assert complaint in refusal(damaged)


def test_a_former_key_of_another_algorithm_is_not_signed() -> None:
    """Content suites go by the algorithm of a member's keys."""
    for key in (BEFORE["ML-DSA-87"], SIGNING["ML-DSA-65"]):
        with pytest.raises(MessageError, match="is not another key of ML-DSA-65"):
            sign_roster(roster(replace(party(), former=FormerKey(key, 1))), ROOT)


def test_a_roster_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is signed that nobody would read, and one that is larger than other documents may be is read."""
    many = roster(*(party(f"spiffe://fed/site/site-{number}", receiving=bytes(2000)) for number in range(2000)))
    data = sign_roster(many, ROOT)
    assert MAX_DOCUMENT_BYTES < len(data) < MAX_ROSTER_BYTES
    assert open_roster(data, ROOTS) == many
    monkeypatch.setattr("pqfl_transport.pki.roster.MAX_ROSTER_BYTES", len(data) - 1)
    for work in (lambda: sign_roster(many, ROOT), lambda: open_roster(data, ROOTS)):
        with pytest.raises(MessageError) as caught:
            work()
        assert caught.value.reason == "too_large"
