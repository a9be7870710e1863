"""The list: every party once, with the standing of its present certificates and its place in the roster."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.certifying import CertificationRequest, Renewal
from certs.listing import Membership, Row, Standing, list_rows, spoken
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki import chain, keystore
from tests.certs.test_rosters import request

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """An authority with a gateway, a member and a candidate."""
    made = Authority.create(tmp_path / "ca", federation="fed", now=NOW)
    made.issue(profile="gateway", name="hub", out=tmp_path / "hub", now=NOW)
    made.issue(profile="site", name="bank", out=tmp_path / "bank", now=NOW)
    made.certify(request("new"), now=NOW)
    return made


def rows(ca: Authority, now: datetime = NOW) -> dict[str, Row]:
    """The rows by the last part of their names."""
    found = list_rows(ca.ledger.entries(), ca.roster(), ca.ledger.candidates(), now, uses=ca.uses())
    return {row.name.rpartition("/")[2]: row for row in found}


def test_every_party_is_a_row(ca: Authority) -> None:
    """Authorities first, then parties by ID; a gateway is in no roster."""
    found = rows(ca)
    assert list(found) == ["root", "issuing", "hub", "bank", "new"]
    assert {name: row.membership for name, row in found.items()} == {
        "root": Membership.NONE,
        "issuing": Membership.NONE,
        "hub": Membership.NONE,
        "bank": Membership.MEMBER,
        "new": Membership.CANDIDATE,
    }
    assert {row.standing for row in found.values()} == {Standing.GOOD}
    assert found["bank"].facts(NOW)["expires_in_seconds"] == 90 * 86400


@pytest.mark.parametrize(("days", "standing"), [(60, "good"), (70, "ending"), (91, "expired")])
def test_the_last_quarter_of_a_life_is_told(ca: Authority, days: int, standing: str) -> None:
    """Whoever should have been renewed by then is warned about, and after the end too."""
    now = NOW + timedelta(days=days)
    row = rows(ca, now)["bank"]
    assert row.standing == standing
    assert (row.warning(now) is None) == (standing == "good")


def test_authorities_are_warned_about_half_a_year_before(ca: Authority) -> None:
    """With the command that replaces them."""
    now = NOW + timedelta(days=5 * 365 - 100)
    warning = rows(ca, now)["issuing"].warning(now)
    assert warning is not None
    assert "in 100 days" in warning
    assert "pqfl ca rotate issuing" in warning
    assert rows(ca, now)["root"].warning(now) is None


def test_a_revoked_member_is_seen_to_leave(ca: Authority) -> None:
    """Until the next roster it is in the present one; no warning nags about its end."""
    ca.revoke("bank", "keyCompromise", now=NOW)
    row = rows(ca)["bank"]
    assert (row.standing, row.membership, row.reason) == (Standing.REVOKED, Membership.LEAVING, "keyCompromise")
    assert row.warning(NOW + timedelta(days=100)) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (7200, "2 hours"),
        (86400, "24 hours"),
        (172800, "2 days"),
    ],
)
def test_time_is_told_in_its_largest_unit(seconds: int, words: str) -> None:
    """As people say it."""
    assert spoken(timedelta(seconds=seconds)) == words


def test_the_signing_certificate_shown_is_that_of_the_key_that_counts(ca: Authority) -> None:
    """A next key is said to wait; its end, its revocation, and those of the former one are no news of the party."""
    folder = ca.folder.parent / "bank"
    tls, signing = (keystore.load_certificate(folder / name, now=NOW) for name in ("tls.pem", "signing.pem"))
    party, present = chain.spiffe_id(signing), chain.verifying_key(signing)

    def waits(name: str, number: int) -> str:
        """Have a next key certified; return the serial number of its certificate."""
        key = SigningKey.from_seed("ML-DSA-65", bytes([number]) * 32).verifying_key
        asked = CertificationRequest(party, "site", chain.verifying_key(tls), present, next_signing_key=key)
        made = ca.certify(asked, now=NOW, renews=Renewal(tls, signing))
        assert made.next_certificate is not None
        assert rows(ca)[name].membership is Membership.NEW_KEY
        return f"{made.next_certificate.serial_number:x}"

    ca.revoke(waits("bank", 1), "keyCompromise", now=NOW)
    assert (rows(ca)["bank"].standing, rows(ca)["bank"].membership) == (Standing.GOOD, Membership.MEMBER)
    serial = waits("bank", 2)
    former = [one.serial for one in rows(ca)["bank"].certificates if one.usage == "signing"]
    ca.sign_roster(ca.plan_roster(now=NOW), now=NOW)
    assert [one.serial for one in rows(ca)["bank"].certificates if one.usage == "signing"] == [serial] != former
    ca.revoke(former[0], "keyCompromise", now=NOW)
    assert (rows(ca)["bank"].standing, rows(ca)["bank"].membership) == (Standing.GOOD, Membership.MEMBER)
    ca.revoke("bank", "keyCompromise", now=NOW)
    assert rows(ca)["bank"].membership is Membership.LEAVING


def test_a_key_that_leaked_and_whose_next_one_waits_does_not_take_its_party_away(ca: Authority) -> None:
    """The next roster names the other key, and the list says so."""
    folder = ca.folder.parent / "bank"
    tls, signing = (keystore.load_certificate(folder / name, now=NOW) for name in ("tls.pem", "signing.pem"))
    key = SigningKey.generate("ML-DSA-65").verifying_key
    asked = CertificationRequest(chain.spiffe_id(tls), "site", chain.verifying_key(tls), next_signing_key=key)
    ca.certify(asked, now=NOW, renews=Renewal(tls, signing))
    ca.revoke(f"{signing.serial_number:x}", "keyCompromise", now=NOW)
    row = rows(ca)["bank"]
    assert (row.standing, row.membership) == (Standing.REVOKED, Membership.NEW_KEY)


def test_of_two_authorities_it_is_said_which_one_signs(ca: Authority) -> None:
    """Announced, then in use beside the former one, about whose end nobody has to be warned."""

    def uses(usage: str) -> list[str | None]:
        found = list_rows(ca.ledger.entries(), ca.roster(), ca.ledger.candidates(), NOW, uses=ca.uses())
        return [row.facts(NOW)["use"] for row in found if row.name == usage]  # type: ignore[misc]

    ca.create_classical(now=NOW)
    for usage, rotate in (("issuing", ca.rotate_issuing), ("classical", ca.rotate_classical)):
        assert uses(usage) == ["signs"]
        rotate(announce=True, now=NOW)
        assert uses(usage) == ["signs", "announced"]
        rotate(now=NOW)
        assert uses(usage) == ["former", "signs"]
    late = NOW + timedelta(days=5 * 365 - 100)
    found = list_rows(ca.ledger.entries(), ca.roster(), ca.ledger.candidates(), late, uses=ca.uses())
    warned = {row.name: row.warning(late) for row in found if row.profile == "classical"}
    assert [row.warning(late) is None for row in found if row.name == "issuing"] == [True, False]
    assert "pqfl ca rotate classical" in str(warned["classical"])
    assert {row.use for row in found if row.name.startswith("spiffe")} == {None}
