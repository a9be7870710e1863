"""What files say about their keys: every kind there is, and our own error for everything else."""

import asyncio
import json
import secrets
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pqfl.keyfacts import KeyFacts, facts_of
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError, PqflError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.passphrases import fixed
from tests.support.pki import Federation, make_federation
from tests.support.rekeying import name_next, prepare_next
from tests.support.rounds import aggregator, current_round, participant


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def one(path: Path) -> KeyFacts:
    (facts,) = facts_of(path)
    return facts


def test_every_file_of_an_identity_is_known(federation: Federation) -> None:
    """Certificates by their use, private keys as such, and each with the fingerprint that the roster has."""
    site, uri = federation.site("bank-a"), federation.site_uri("bank-a")
    party = keystore.load_roster(federation.roster, keystore.root_keys(keystore.load_anchors(federation.ca_pem))).party(
        uri
    )
    for name, kind, owner, private in (
        ("signing.pem", "signing certificate", uri, False),
        ("tls.pem", "client certificate", uri, False),
        ("signing.key", "private key", "", True),
        ("receiving.key", "private receiving key", "", True),
        ("receiving.pub", "public receiving key", "", False),
    ):
        facts = one(site / name)
        assert (facts.kind, facts.owner, facts.private, facts.encrypted) == (kind, owner, private, False)
        assert facts.nist_category == 3
        if name != "tls.pem":
            expected = party.signing_key.fingerprint if "signing" in name else party.receiving_fingerprint
            assert facts.fingerprint == expected
    assert [facts.kind for facts in facts_of(federation.ca_pem)] == ["root certificate", "issuing certificate"]
    assert {facts.owner for facts in facts_of(federation.roster)} == {uri, federation.aggregator_uri}


def test_a_round_document_has_two_keys(federation: Federation, tmp_path: Path) -> None:
    """The aggregator's, that signed it, and the round's; both as the document says."""

    async def fetch() -> bytes:
        async with aggregator(federation, tmp_path / "hub") as hub:
            await current_round(hub.url, participant(federation, "bank-a"))
            url = f"{hub.url}/v1/rounds/current?nonce={secrets.token_hex(16)}"
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return await answer.read()

    (tmp_path / "round.json").write_bytes(asyncio.run(asyncio.wait_for(fetch(), 20)))
    signing, receiving = facts_of(tmp_path / "round.json")
    assert signing.fingerprint == one(federation.aggregator / "signing.pem").fingerprint
    assert (receiving.kind, receiving.owner) == ("public receiving key", f"{federation.aggregator_uri}, round 1")
    assert "not verified" in receiving.remark


def test_classical_keys_and_bare_public_ones_are_shown_too(tmp_path: Path) -> None:
    """A key of a migration has no category; the public half of an audit key has its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_secret(tmp_path / "ec.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    facts = one(tmp_path / "ec.key")
    assert (facts.nist_category, facts.private) == (None, True)
    public = SigningKey.generate("ML-DSA-87").verifying_key
    (tmp_path / "audit.pub").write_bytes(public.pyca_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert (one(tmp_path / "audit.pub").algorithm, one(tmp_path / "audit.pub").fingerprint) == (
        "ML-DSA-87", public.fingerprint,
    )  # fmt: skip


def test_a_private_key_that_others_can_read_is_refused(federation: Federation, tmp_path: Path) -> None:
    """Showing it would be the moment not to look away."""
    (tmp_path / "loose.key").write_bytes((federation.site("bank-a") / "signing.key").read_bytes())
    with pytest.raises(PqflError, match="chmod 600"):
        facts_of(tmp_path / "loose.key")


def test_a_roster_that_does_not_hold_is_not_shown_as_verified(federation: Federation, tmp_path: Path) -> None:
    """Another federation's roots: refused; without roots it is shown, and said to be unverified."""
    other = make_federation(tmp_path / "other", sites=())
    with pytest.raises(MessageError):
        facts_of(federation.roster, cacert=other.ca_pem)
    assert all("not verified" in facts.remark for facts in facts_of(federation.roster))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"text", b"{}", b"{", b'{"pqfl": "roster/v1"}', b'{"pqfl": "roster/v1", "payload": "[]"}',
        b'{"pqfl": "roster/v1", "payload": "{\\"parties\\": [3]}"}', b'{"pqfl": "roster/v1", "payload": "{}"}',
        b'{"pqfl": "roster/v1", "payload": "{\\"parties\\": 3}"}',
        b'{"pqfl": "round/v1", "payload": "{}", "signer": "xyz"}', b'{"pqfl": "other/v1", "payload": "{}"}',
        b'{"pqfl": "receiving-key/v1", "payload": "{\\"id\\": \\"x\\", \\"receiving_key\\": \\"AAAA\\"}"}',
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        b"-----BEGIN OTHER-----\nAAAA\n-----END OTHER-----\n",
    ],
)  # fmt: skip
def test_anything_else_is_our_own_error(tmp_path: Path, data: bytes) -> None:
    """It names the file, whatever is in it."""
    write_secret(tmp_path / "odd", data)
    with pytest.raises(PqflError, match=str(tmp_path / "odd")):
        facts_of(tmp_path / "odd", fixed("x"))


@given(st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_of_any_shape_are_our_own_error(tmp_path: Path, value: object) -> None:
    """Fields of any type in the place of those that are expected."""
    for kind in ("roster/v1", "round/v1", "receiving-key/v1"):
        payload = json.dumps({"parties": value, "receiving_key": value, "id": value, "aggregator": value})
        write_secret(
            tmp_path / "odd", json.dumps({"pqfl": kind, "payload": payload, "signer": "00"}).encode(), overwrite=True
        )
        with pytest.raises(PqflError):
            facts_of(tmp_path / "odd")


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    """An owner is what a file claims: control characters are shown as what they are not, and no more than a line."""
    facts = KeyFacts("f", "kind", "ML-DSA-65", b"", owner="a\x1b[2J\nb" + "c" * 1000)
    assert facts.owner.startswith("a?[2J?b")
    assert len(facts.owner) == 300


def test_a_former_key_is_shown_with_its_end(tmp_path: Path) -> None:
    """A roster that names two signing keys of a party shows both; an end that no clock has is left out."""
    federation = make_federation(tmp_path / "federation", sites=("bank-a",))
    prepare_next(federation, federation.site("bank-a"))
    former = name_next(federation).party(federation.site_uri("bank-a")).former
    assert former is not None
    (found,) = [one for one in facts_of(federation.roster) if one.kind == "former signing key"]
    assert (found.fingerprint, found.not_after) == (former.key.fingerprint, former.until)
    assert found.owner == federation.site_uri("bank-a")
    forged = federation.roster.read_bytes().replace(str(former.until).encode(), b"9" * 30)
    (tmp_path / "forged.json").write_bytes(forged)
    (found,) = [one for one in facts_of(tmp_path / "forged.json") if one.kind == "former signing key"]
    assert found.not_after == 0
