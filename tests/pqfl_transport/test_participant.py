"""A site's judgement: which round documents and models it accepts, and what it refuses to send."""

import secrets
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from pqfl_transport.aggregation.round_document import RoundDocument, RoundState, TensorSchema, sign_round_document
from pqfl_transport.content.envelope import Prologue, decode_prologue
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.opening import open_weights
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.content.tensors import TensorLayout, model_digest, schema
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import (
    ConfigurationError,
    MessageError,
    PolicyError,
    PqflError,
    RoundError,
    TransportError,
)
from pqfl_transport.participant import Participant, RoundInfo
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.roster import FormerKey
from pqfl_transport.pki.spiffe import Role
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, membership, participant

NOW = 1000.0
NONCE = secrets.token_hex(16)
SUITE = "pqfl/v1/mlkem768x25519-mldsa65"
ROUND_KEY = ReceivingKey.generate("ML-KEM-768+X25519")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture(scope="module")
def hub(federation: Federation) -> Membership:
    return membership(federation, federation.aggregator, Role.AGGREGATOR)


@pytest.fixture
def site(federation: Federation) -> Participant:
    return participant(federation, "bank-a")


def document(**changes: Any) -> RoundDocument:
    good = RoundDocument(
        nonce=NONCE, aggregator="spiffe://fed/aggregator/main", federation="fed", round=3,
        state=RoundState.COLLECTING, suite=SUITE, challenge=b"c" * 32, receiving_key=ROUND_KEY.public.to_bytes(),
        model_version=2, model_digest=model_digest(MODEL), schema=tuple(TensorSchema(*row) for row in schema(MODEL)),
        plaintext_bytes=TensorLayout.of(MODEL).total_bytes, quorum=1, deadline=2000, not_after=2060, roster_number=4,
    )  # fmt: skip
    return replace(good, **changes)


def judged(site: Participant, hub: Membership, **changes: Any) -> RoundInfo:
    return site.judge(sign_round_document(document(**changes), hub.identity.key), NONCE, NOW)


def sealed_model(hub: Membership, model: Any = None, key: SigningKey | None = None, **changes: Any) -> memoryview:
    parameters = EnvelopeParameters(
        suite=SUITE, federation="fed", sender="spiffe://fed/aggregator/main", direction="model", round=2,
        base_model_digest=model_digest(MODEL), trailer=True,
    )  # fmt: skip
    recipients = [RecipientKey.from_bytes(party.receiving_key) for party in hub.parties(Role.SITE)]
    weights = MODEL if model is None else model
    return seal_weights(weights, replace(parameters, **changes), recipients, key or hub.identity.key)


def test_a_good_document_is_accepted(site: Participant, hub: Membership) -> None:
    """Number, state and version are those of the document, and the round counts as seen."""
    info = judged(site, hub)
    assert (info.number, info.state, info.model_version, info.is_finished) == (3, RoundState.COLLECTING, 2, False)
    assert site.seen_round == 3


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"nonce": "0" * 32}, MessageError, "replayed"),
        ({"aggregator": "spiffe://fed/aggregator/other"}, MessageError, "wrong_aggregator"),
        ({"federation": "other"}, MessageError, "wrong_federation"),
        ({"suite": "pqfl/v1/mlkem768x25519-mldsa44"}, PolicyError, "content_suite"),
        ({"not_after": 999}, RoundError, "expired"),
        ({"round": 2}, RoundError, "stale"),
        ({"challenge": b"", "receiving_key": b""}, MessageError, "malformed"),
    ],
)
def test_documents_that_are_refused(
    site: Participant, hub: Membership, changes: dict[str, Any], kind: type[PqflError], reason: str
) -> None:
    """Replayed, of another aggregator or federation, outside the policy, past its end, older than one seen."""
    site.seen_round = 3
    with pytest.raises(kind) as caught:
        judged(site, hub, **changes)
    assert caught.value.reason == reason
    assert site.seen_round == 3


def test_a_document_that_a_site_signed_is_refused(site: Participant, federation: Federation) -> None:
    """Another member of the federation cannot open rounds."""
    other = membership(federation, federation.site("bank-b"))
    with pytest.raises(MessageError) as caught:
        site.judge(sign_round_document(document(), other.identity.key), NONCE, NOW)
    assert caught.value.reason == "unknown_signer"


def test_the_model_of_the_document_is_opened(site: Participant, hub: Membership) -> None:
    """What comes back is the model, array by array."""
    weights = site.open_model(sealed_model(hub), judged(site, hub))
    assert isinstance(weights, dict)
    assert all((weights[name] == MODEL[name]).all() for name in MODEL)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sender": "spiffe://fed/site/bank-b"}, "wrong_sender"),
        ({"direction": "update"}, "wrong_direction"),
        ({"federation": "other"}, "wrong_federation"),
        ({"round": 1}, "wrong_version"),
        ({"model": {"w": MODEL["w"] + 1, "b": MODEL["b"]}}, "wrong_model"),
        ({"model": {"w": np.zeros(10_000)}}, "too_large"),
        ({"key": SigningKey.generate("ML-DSA-65")}, "wrong_sender_key"),
    ],
)
def test_models_that_are_refused(site: Participant, hub: Membership, changes: dict[str, Any], reason: str) -> None:
    """A model of another sender, kind, version, digest, size or key is not used."""
    with pytest.raises(MessageError) as caught:
        site.open_model(sealed_model(hub, **changes), judged(site, hub))
    assert caught.value.reason == reason


def test_another_site_cannot_forge_the_model_it_shares_the_key_of(site: Participant, hub: Membership) -> None:
    """A body changed by another recipient does not fit the aggregator's trailer, and nothing of it comes out."""
    envelope = sealed_model(hub)
    envelope[-1] ^= 1
    with pytest.raises(MessageError) as caught:
        site.open_model(envelope, judged(site, hub))
    assert caught.value.reason == "bad_trailer"


def test_an_update_is_the_delta_sealed_to_the_round(site: Participant, hub: Membership, federation: Federation) -> None:
    """Only the round's key opens it; inside are the change and the number of samples."""
    info = judged(site, hub)
    update = site.seal_update(info, MODEL, {name: array + 2 for name, array in MODEL.items()}, 12)
    prologue, _ = decode_prologue(update.envelope)
    assert (prologue.header.challenge, prologue.header.not_after) == (b"c" * 32, 2060)
    assert (update.envelope_id, update.challenge) == (prologue.header.envelope_id, b"c" * 32)
    assert str(update.address) == f"/v1/rounds/3/uploads/bank-a/{prologue.digest.hex()}"
    assert update.path == f"/v1/rounds/3/updates/{update.envelope_id.hex()}"
    sender = hub.roster.party(federation.site_uri("bank-a"))
    opened = open_weights(
        update.envelope, receiving_key=ROUND_KEY, sender_key=sender.signing_key, policy=site.member.policy
    )
    assert opened.metadata == {"samples": "12"}
    assert isinstance(opened.weights, dict)
    assert all((opened.weights[name] == 2).all() for name in MODEL)


@pytest.mark.parametrize(
    ("new", "samples", "reason"),
    [
        ({"w": MODEL["w"]}, 1, "wrong_names"),
        ({"w": MODEL["w"].T, "b": MODEL["b"]}, 1, "wrong_shape"),
        ({"w": MODEL["w"].astype(np.float64), "b": MODEL["b"]}, 1, "wrong_dtype"),
        ({"w": MODEL["w"] * np.nan, "b": MODEL["b"]}, 1, "not_finite"),
        (MODEL, 0, "bad_samples"),
        (MODEL, 1_000_001, "bad_samples"),
        (MODEL, 1.5, "bad_samples"),
        (MODEL, None, "bad_samples"),
    ],
)
def test_what_would_be_refused_is_not_sent(
    site: Participant, hub: Membership, new: Any, samples: Any, reason: str
) -> None:
    """A wrong shape, type or number fails at the site, with the tensor's name, before anything is sealed."""
    with pytest.raises(RoundError) as caught:
        site.seal_update(judged(site, hub), MODEL, new, samples)
    assert caught.value.reason == reason


def test_numpy_integers_count_as_samples(site: Participant, hub: Membership) -> None:
    """``len`` of an array and ``array.sum()`` are both numbers of samples."""
    assert site.seal_update(judged(site, hub), MODEL, MODEL, np.int64(5)).address.round_number == 3  # type: ignore[arg-type]


def test_a_receiving_key_that_the_roster_does_not_list_is_refused(federation: Federation) -> None:
    """A site whose receiving key was exchanged would not be able to open the model: it learns that at its start."""
    member = membership(federation, federation.site("bank-a"))
    with pytest.raises(ConfigurationError) as caught:
        Participant(member, ReceivingKey.generate("ML-KEM-768+X25519"))
    assert caught.value.reason == "key_mismatch"


def test_several_aggregators_have_to_be_told_apart(federation: Federation, tmp_path_factory: Any) -> None:
    """With two aggregators in the roster the site has to name one, and then only that one counts."""
    folder = tmp_path_factory.mktemp("two")
    two = make_federation(folder, sites=("bank-a",))
    two.authority.issue(profile="aggregator", name="second", out=folder / "second")
    with pytest.raises(ConfigurationError, match="aggregator/second"):
        participant(two, "bank-a")
    key = ReceivingKey.from_pem((two.site("bank-a") / "receiving.key").read_bytes())
    named = Participant(
        membership(two, two.site("bank-a")), key, aggregator="spiffe://fed/aggregator/second"
    )  # fmt: skip
    first = membership(two, two.aggregator, Role.AGGREGATOR)
    with pytest.raises(MessageError) as caught:
        named.judge(sign_round_document(document(), first.identity.key), NONCE, NOW)
    assert caught.value.reason == "unknown_signer"
    del federation


def test_a_site_that_changes_its_key_opens_models_for_both(federation: Federation, hub: Membership) -> None:
    """The roster lists the former key or the new one: a model for either opens while the former has time."""
    member = membership(federation, federation.site("bank-a"))
    former = ReceivingKey.from_pem((federation.site("bank-a") / "receiving.key").read_bytes())
    new = ReceivingKey.generate("ML-KEM-768+X25519")
    site = Participant(member, ReceivingKeys.of(former).rotated(new, now=int(NOW), not_after=int(NOW) + 10))
    info = judged(site, hub)
    assert np.array_equal(site.open_model(sealed_model(hub), info)["w"], MODEL["w"])
    parameters = EnvelopeParameters(
        suite=SUITE, federation="fed", sender="spiffe://fed/aggregator/main", direction="model", round=2,
        base_model_digest=model_digest(MODEL), trailer=True,
    )  # fmt: skip
    for_new = seal_weights(MODEL, parameters, [new.public, ROUND_KEY.public], hub.identity.key)
    assert np.array_equal(site.open_model(for_new, info)["w"], MODEL["w"])
    # Judged later, the former key is past its end and the new one is not.
    site.judge(sign_round_document(document(not_after=3000), hub.identity.key), NONCE, NOW + 11)
    assert site.open_model(for_new, info)
    with pytest.raises(ConfigurationError, match="was kept until") as caught:
        site.open_model(sealed_model(hub), info)
    assert caught.value.reason == "key_expired"
    with pytest.raises(MessageError) as other:
        site.open_model(seal_weights(MODEL, parameters, [ROUND_KEY.public], hub.identity.key), info)
    assert other.value.reason == "not_for_us"


def test_a_model_comes_in_any_pieces_and_can_come_again(site: Participant, hub: Membership) -> None:
    """The receiver takes bytes as they come, starts over when told to, and counts what it has."""
    envelope, receiver = sealed_model(hub), site.receive_model(judged(site, hub))
    receiver.feed(envelope[:9000])
    assert receiver.received_bytes == 9000
    receiver.restart()
    assert receiver.received_bytes == 0
    for start in range(0, len(envelope), 777):
        receiver.feed(envelope[start : start + 777])
    weights = receiver.finish()
    assert isinstance(weights, dict)
    assert all((weights[name] == MODEL[name]).all() for name in MODEL)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_model_that_ends_early_is_none(site: Participant, hub: Membership, length: int) -> None:
    """Wherever the stream stops before its end, there is no model."""
    receiver = site.receive_model(judged(site, hub))
    if length:
        receiver.feed(sealed_model(hub)[:length])
    with pytest.raises(MessageError) as caught:
        receiver.finish()
    assert caught.value.reason == "truncated"


def test_a_model_larger_than_the_round_says_is_refused_before_memory_is_taken(
    site: Participant, hub: Membership
) -> None:
    """What the header announces is held to the signed document first."""
    info = judged(site, hub)
    small = replace(info, document=replace(info.document, plaintext_bytes=10))
    with pytest.raises(MessageError) as caught:
        site.open_model(sealed_model(hub), small)
    assert caught.value.reason == "too_large"


def test_a_stored_update_is_recalled_for_its_own_round_only(site: Participant, hub: Membership) -> None:
    """Whole, signed by this site, for this challenge: then it is the update; else it says what is wrong."""
    info = judged(site, hub)
    envelope = site.seal_update(info, MODEL, MODEL, 5).envelope
    assert site.recall_update(envelope, info).envelope == envelope
    later = replace(info, document=replace(info.document, challenge=b"z" * 32))
    forged = memoryview(bytearray(envelope))
    forged[3000] ^= 1
    for stored, of, reason in (
        (envelope, later, "wrong_challenge"),
        (envelope[:-1], info, "truncated"),
        (memoryview(bytes(envelope) + b"x"), info, "excess"),
        (envelope[:500], info, "truncated"),
        (memoryview(b""), info, "truncated"),
        (forged, info, "bad_signature"),
    ):
        with pytest.raises((MessageError, RoundError)) as caught:
            site.recall_update(stored, of)
        assert caught.value.reason == reason


class Fixed:
    """A source that knows one key, for every id, and is down as often as it is told."""

    def __init__(self, down: int = 0) -> None:
        self.down = down

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        """Give it."""
        if self.down:
            self.down -= 1
            raise TransportError("no key now", reason="key_manager_down")
        return (b"m" * 32,) * len(prologue.header.extra_key_ids)

    def settle(self, prologue: Prologue) -> None:
        """Nothing is kept."""


def test_extra_keys_are_part_of_updates_and_of_models(site: Participant, hub: Membership) -> None:
    """An update names them; a model that needs one opens with its source alone."""
    extra = (ExtraKey("psk:spring:" + "0" * 32, b"m" * 32),)
    info = judged(site, hub)
    update = site.seal_update(info, MODEL, MODEL, 1, extra)
    assert decode_prologue(bytes(update.envelope))[0].header.extra_key_ids == (extra[0].id,)
    model = sealed_model(hub, extra_keys=extra)
    opened = site.open_model(model, info, Fixed())
    assert all((opened[name] == MODEL[name]).all() for name in MODEL)
    with pytest.raises(MessageError) as caught:
        site.open_model(model, info)
    assert caught.value.reason == "extra_key"


def test_a_model_whose_key_cannot_be_had_now_begins_again(site: Participant, hub: Membership) -> None:
    """The receiver asks for it from its first byte, and takes it when the key manager is back."""
    model = sealed_model(hub, extra_keys=(ExtraKey("psk:spring:" + "0" * 32, b"m" * 32),))
    receiver = site.receive_model(judged(site, hub), Fixed(down=1))
    with pytest.raises(TransportError):
        receiver.feed(model)
    assert (receiver.received_bytes, receiver.may_wait) == (0, True)
    receiver.feed(model)
    assert not receiver.may_wait
    opened = receiver.finish()
    assert all((opened[name] == MODEL[name]).all() for name in MODEL)


@pytest.fixture
def overlap(federation: Federation, hub: Membership) -> tuple[Participant, SigningKey]:
    """A site whose roster names a new key of the aggregator, and the one before until second 1500; and the new key."""
    site, key = participant(federation, "bank-a"), SigningKey.generate("ML-DSA-65")
    party = hub.party
    both = replace(party, signing_key=key.verifying_key, former=FormerKey(party.signing_key, 1500))
    parties = MappingProxyType({**site.member.roster.parties, str(party.id): both})
    site.take_on(replace(site.member, roster=replace(site.member.roster, parties=parties)))
    return site, key


def test_rounds_and_models_of_both_keys_of_the_aggregator_count(
    overlap: tuple[Participant, SigningKey], hub: Membership
) -> None:
    """A document under one key and the model under the other, until the former one's time is over."""
    site, key = overlap
    former, nonce = hub.identity.key, NONCE
    for signer, sealer in ((former, key), (key, former)):
        info = site.judge(sign_round_document(document(), signer), nonce, 1500)
        site.open_model(sealed_model(hub, key=sealer), info)
    with pytest.raises(MessageError) as caught:
        site.judge(sign_round_document(document(not_after=2060), former), nonce, 1501)
    assert caught.value.reason == "unknown_signer"
    info = site.judge(sign_round_document(document(), key), nonce, 1501)
    with pytest.raises(MessageError, match="its time is over") as caught:
        site.open_model(sealed_model(hub, key=former), info)
    assert caught.value.reason == "wrong_sender_key"
    site.open_model(sealed_model(hub, key=key), info)


def test_what_revocation_lists_leave_of_the_aggregator_s_keys_is_taken(
    overlap: tuple[Participant, SigningKey], hub: Membership
) -> None:
    """A former key that is on one signs no round, though its time is not over."""
    site, key = overlap
    site.know(replace(site.member.roster.party(site.aggregator), former=None))
    with pytest.raises(MessageError) as caught:
        judged(site, hub)
    assert caught.value.reason == "unknown_signer"
    site.judge(sign_round_document(document(), key), NONCE, NOW)


def test_a_stored_update_under_the_former_key_is_gone_on_with(federation: Federation, hub: Membership) -> None:
    """By a site that signs with the new one already, until the former one's time is over."""
    site, key = participant(federation, "bank-a"), SigningKey.generate("ML-DSA-65")
    stored = site.seal_update(judged(site, hub), MODEL, MODEL, 5).envelope
    member = site.member
    both = replace(member.party, signing_key=key.verifying_key, former=FormerKey(member.party.signing_key, 1500))
    parties = MappingProxyType({**member.roster.parties, str(both.id): both})
    identity = replace(member.identity, key=key)
    site.take_on(replace(member, identity=identity, roster=replace(member.roster, parties=parties)))
    for now in (NOW, 1500.0):
        info = site.judge(sign_round_document(document(), hub.identity.key), NONCE, now)
        assert site.recall_update(stored, info).envelope == stored
    info = site.judge(sign_round_document(document(), hub.identity.key), NONCE, 1501)
    with pytest.raises(MessageError) as caught:
        site.recall_update(stored, info)
    assert caught.value.reason == "wrong_sender_key"
