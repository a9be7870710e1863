"""Uploads as streams: pieces of any size, and what does not become an update leaves no trace."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.intake import Accepted, Collecting, Intake, Upload
from aggregator.rounds import MAX_RESERVATIONS, Move, Round, State, Terms
from pqfl_transport.content.envelope import Prologue, decode_prologue
from pqfl_transport.content.header import CODECS
from pqfl_transport.content.keysource import ExtraKey
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.content.sealing import EnvelopeParameters, seal_weights
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError, PolicyError, PqflError, RoundError, TransportError
from pqfl_transport.pki.membership import Membership
from pqfl_transport.pki.roster import FormerKey, Party
from pqfl_transport.policy import for_level
from pqfl_transport.timing import Stopwatch
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, membership

NOW = 1000.0
SUITE = "pqfl/v1/mlkem768x25519-mldsa65"
KEY = ReceivingKey.generate("ML-KEM-768+X25519")
EXTRA = ExtraKey("qkd:link:bc490419-7d60-487f-adc1-4ddcc177c139", b"m" * 32)
DELTA = {name: np.ones_like(array) for name, array in MODEL.items()}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture(scope="module")
def site(federation: Federation) -> Membership:
    return membership(federation, federation.site("bank-a"))


def collecting(federation: Federation) -> Collecting:
    terms = Terms(
        federation="fed", number=3, challenge=b"c" * 32, suite=SUITE, base_digest=b"d" * 32,
        receiving_fingerprint=KEY.fingerprint, max_plaintext_bytes=5000,
        expected=frozenset({federation.site_uri("bank-a"), federation.site_uri("bank-b")}),
        quorum=1, deadline=2000.0, not_after=2060.0,
    )  # fmt: skip
    return Collecting(Round(terms), KEY, MODEL)


def seal(site: Membership, delta: Any = None, metadata: dict[str, str] | None = None, **changes: Any) -> bytes:
    parameters = EnvelopeParameters(
        suite=SUITE, federation="fed", sender=str(site.identity.id), direction="update", round=3, challenge=b"c" * 32,
        not_after=2000, base_model_digest=b"d" * 32,
    )  # fmt: skip
    metadata = {"samples": "7"} if metadata is None else metadata
    weights = DELTA if delta is None else delta
    return bytes(seal_weights(weights, replace(parameters, **changes), [KEY.public], site.identity.key, metadata))


def upload(data: bytes, *, cuts: list[int] | None = None, length_bytes: int | None = None) -> Upload:
    async def body() -> AsyncIterator[bytes]:
        edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
        for start, end in itertools.pairwise(edges):
            yield data[start:end]

    try:
        prologue, _ = decode_prologue(data)
        number, envelope_id = prologue.header.round, prologue.header.envelope_id
    except PqflError:
        number, envelope_id = 3, b"e" * 16
    return Upload(number, envelope_id, length_bytes, body())


def intake(federation: Federation, *, clock: Callable[[], float] = lambda: NOW) -> Intake:
    roster = membership(federation, federation.site("bank-a")).roster
    return Intake(roster, for_level("high"), clock, Stopwatch())


def take(federation: Federation, data: bytes, open_round: Collecting, **options: Any) -> Accepted:
    return asyncio.run(intake(federation).take(upload(data, **options), open_round))


@given(cuts=st.lists(st.integers(0, 10_000), max_size=8))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_division_into_pieces_gives_the_same_update(
    federation: Federation, site: Membership, cuts: list[int]
) -> None:
    """Where the network cuts the stream makes no difference."""
    open_round = collecting(federation)
    accepted = take(federation, seal(site), open_round, cuts=cuts)
    assert (accepted.samples, accepted.again) == (7, False)
    update = open_round.round.updates[str(site.identity.id)]
    assert isinstance(update.delta, dict)
    assert all((update.delta[name] == DELTA[name]).all() for name in DELTA)


def test_garbage_under_a_copied_prologue_does_not_block_its_owner(federation: Federation, site: Membership) -> None:
    """Who copied a prologue can send garbage behind it as often as he likes; the owner's upload is taken after."""
    open_round = collecting(federation)
    good = seal(site)
    prologue, rest = decode_prologue(good)
    for _ in range(MAX_RESERVATIONS + 2):
        with pytest.raises(MessageError, match=r"body|chunk|authentic") as caught:
            take(federation, prologue.raw + bytes(len(rest)), open_round)
        assert caught.value.reason == "bad_body"
    assert open_round.round.updates == {}
    assert take(federation, good, open_round).samples == 7


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_is_undone_before_the_delta_is_checked(federation: Federation, site: Membership, codec: str) -> None:
    """An update in fewer bytes is held to the model's names, shapes and types like any other."""
    open_round = collecting(federation)
    assert take(federation, seal(site, codec=codec), open_round).samples == 7
    update = open_round.round.updates[str(site.identity.id)]
    assert isinstance(update.delta, dict)
    assert {name: (a.dtype, a.shape) for name, a in update.delta.items()} == {
        name: (a.dtype, a.shape) for name, a in MODEL.items()
    }


def test_a_small_update_cannot_expand_to_a_large_one(federation: Federation, site: Membership) -> None:
    """What a codec expands to is held against the model before memory is taken for it."""
    delta = {"w": np.ones(10_000_000, np.float32)}
    with pytest.raises(MessageError) as caught:
        take(federation, seal(site, delta, codec="safetensors+topk"), replace_limit(collecting(federation)))
    assert caught.value.reason == "too_large"


def replace_limit(open_round: Collecting) -> Collecting:
    """Return the round with room for any plaintext, so that only the codec's limit is left."""
    terms = replace(open_round.round.terms, max_plaintext_bytes=1 << 30)
    return Collecting(Round(terms), open_round.receiving_key, open_round.base)


@pytest.mark.parametrize("samples", ["", "0", "-1", "1.5", "1e3", "٣", "9" * 19, "1000001", " 1", "+1"])
def test_a_number_of_samples_that_is_none_or_above_the_cap(
    federation: Federation, site: Membership, samples: str
) -> None:
    """The weight of an update is a whole number from 1 to the roster's cap, in plain digits."""
    with pytest.raises(RoundError, match="samples") as caught:
        take(federation, seal(site, metadata={"samples": samples}), collecting(federation))
    assert caught.value.reason == "bad_samples"


def test_an_update_without_samples_is_refused(federation: Federation, site: Membership) -> None:
    """No number of samples is no weight of one."""
    with pytest.raises(RoundError, match="no number of samples"):
        take(federation, seal(site, metadata={}), collecting(federation))


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        (DELTA | {"w": np.full((2, 3), np.inf, np.float32)}, "not_finite"),
        (DELTA | {"w": np.ones((6,), np.float32)}, "wrong_shape"),
        (DELTA | {"w": np.ones((2, 3), np.int32)}, "wrong_dtype"),
        ({"w": DELTA["w"]}, "wrong_names"),
        (list(DELTA.values()), "wrong_names"),
    ],
)
def test_deltas_that_do_not_fit_the_model(federation: Federation, site: Membership, delta: Any, reason: str) -> None:
    """Shape, type, names, form and finiteness are checked against the base model, and the place is given back."""
    open_round = collecting(federation)
    with pytest.raises(RoundError) as caught:
        take(federation, seal(site, delta), open_round)
    assert caught.value.reason == reason
    assert take(federation, seal(site), open_round).samples == 7


def test_a_suite_outside_the_policy_is_refused(federation: Federation, site: Membership) -> None:
    """An envelope of another level's suite gets no further than its prologue."""
    open_round = collecting(federation)
    lower = replace(open_round.round.terms, suite="pqfl/v1/mlkem768x25519-mldsa44")
    with pytest.raises(MessageError) as caught:
        take(federation, seal(site), Collecting(Round(lower), KEY, MODEL))
    assert caught.value.reason == "wrong_suite"
    strict = Intake(
        membership(federation, federation.site("bank-a")).roster, for_level("cnsa2"), lambda: NOW, Stopwatch()
    )
    with pytest.raises(PolicyError, match="cnsa2"):
        asyncio.run(strict.take(upload(seal(site)), open_round))


@pytest.mark.parametrize("difference", [-1, 1])
def test_an_announced_length_that_does_not_fit_is_refused_at_once(
    federation: Federation, site: Membership, difference: int
) -> None:
    """A wrong Content-Length is refused before the body is read."""
    data = seal(site)
    with pytest.raises(MessageError) as caught:
        take(federation, data, collecting(federation), length_bytes=len(data) + difference)
    assert caught.value.reason == ("truncated" if difference < 0 else "excess")


def test_an_envelope_cut_anywhere_is_truncated(federation: Federation, site: Membership) -> None:
    """Ending after the prologue, within it, or within the body is the same refusal."""
    data = seal(site)
    prologue, _ = decode_prologue(data)
    for end in (0, 3, 10, len(prologue.raw) - 1, len(prologue.raw), len(prologue.raw) + 1, len(data) - 1):
        with pytest.raises(MessageError) as caught:
            take(federation, data[:end], collecting(federation))
        assert caught.value.reason == "truncated"


def test_the_round_closing_while_the_body_arrives_refuses_the_update(federation: Federation, site: Membership) -> None:
    """An upload that was admitted in time but completed too late is not counted."""
    open_round = collecting(federation)
    data = seal(site)
    prologue, _ = decode_prologue(data)

    async def body() -> AsyncIterator[bytes]:
        yield data[: len(prologue.raw)]
        open_round.round.move(Move.SHORT_AT_DEADLINE)
        yield data[len(prologue.raw) :]

    late = Upload(3, prologue.header.envelope_id, None, body())
    with pytest.raises(RoundError) as caught:
        asyncio.run(intake(federation).take(late, open_round))
    assert caught.value.reason == "closed"
    assert open_round.round.state is State.FAILED
    assert open_round.round.updates == {}


def test_bytes_behind_the_end_are_refused(federation: Federation, site: Membership) -> None:
    """A stream that goes on behind the envelope's end is refused at the first byte too many."""
    with pytest.raises(MessageError) as caught:
        take(federation, seal(site) + b"x", collecting(federation), cuts=[9000])
    assert caught.value.reason == "excess"


@given(data=st.binary(max_size=400))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_refused_by_an_error_of_ours(federation: Federation, data: bytes) -> None:
    """Noise on the update path is a ``MessageError``, whatever it looks like."""
    with pytest.raises(MessageError):
        take(federation, data, collecting(federation))


def test_an_upload_that_waits_opens_nothing_once_the_key_is_forgotten(federation: Federation, site: Membership) -> None:
    """A round that closed while the prologue was on its way refuses what comes, and its document has no key."""
    open_round = collecting(federation)
    assert open_round.announced_key == KEY.public.to_bytes()
    open_round.forget_key()
    assert open_round.announced_key == b""
    with pytest.raises(RoundError) as caught:
        take(federation, seal(site), open_round)
    assert caught.value.reason == "closed"
    assert not open_round.round.updates


class Source:
    """A source of extra keys that remembers where it was asked, for what, and what it was told was opened."""

    def __init__(self, *errors: PqflError) -> None:
        self.asked: list[str] = []
        self.settled: list[bytes] = []
        self._errors = list(errors)

    def fetch(self, prologue: Prologue) -> tuple[bytes, ...]:
        """Refuse as often as there are errors, then give the key."""
        self.asked.append(threading.current_thread().name)
        if self._errors:
            raise self._errors.pop(0)
        return (b"m" * 32,) * len(prologue.header.extra_key_ids)

    def settle(self, prologue: Prologue) -> None:
        """Note that the update was accepted."""
        self.settled.append(prologue.digest)


def take_with(federation: Federation, source: Source, data: bytes, open_round: Collecting) -> Accepted:
    roster = membership(federation, federation.site("bank-a")).roster
    taker = Intake(roster, for_level("high"), lambda: NOW, Stopwatch(), source)
    return asyncio.run(taker.take(upload(data), open_round))


def test_an_update_with_an_extra_key(federation: Federation, site: Membership) -> None:
    """Its key is fetched in a thread of its own kind, and settled with the update."""
    source, data = Source(), seal(site, extra_keys=(EXTRA,))
    accepted = take_with(federation, source, data, collecting(federation))
    assert accepted.extra_key_ids == (EXTRA.id,)
    assert [name.startswith("pqfl-keys") for name in source.asked] == [True]
    assert source.settled == [decode_prologue(data)[0].digest]


def test_a_key_that_cannot_be_had_now_leaves_the_round_as_it_was(federation: Federation, site: Membership) -> None:
    """The same bytes are taken when the key manager is back, and nothing was settled before."""
    source = Source(TransportError("down", reason="key_manager_down"))
    open_round, data = collecting(federation), seal(site, extra_keys=(EXTRA,))
    with pytest.raises(TransportError):
        take_with(federation, source, data, open_round)
    assert (open_round.round.updates, source.settled) == ({}, [])
    assert take_with(federation, source, data, open_round).samples == 7


def test_nothing_is_fetched_for_what_is_refused_before(federation: Federation, site: Membership) -> None:
    """A forged prologue, another challenge, a second copy of what was accepted: the source hears of none."""
    source, open_round, data = Source(), collecting(federation), seal(site, extra_keys=(EXTRA,))
    forged = bytearray(data)
    forged[data.index(b"qkd:link")] ^= 1
    for bad in (bytes(forged), seal(site, extra_keys=(EXTRA,), challenge=b"x" * 32)):
        with pytest.raises(PqflError):
            take_with(federation, source, bad, open_round)
    assert source.asked == []
    take_with(federation, source, data, open_round)
    assert take_with(federation, source, data, open_round).again
    assert len(source.asked) == 1


def test_without_a_source_an_extra_key_is_refused(federation: Federation, site: Membership) -> None:
    """An aggregator that was given no keys opens nothing that needs one."""
    with pytest.raises(MessageError) as caught:
        take(federation, seal(site, extra_keys=(EXTRA,)), collecting(federation))
    assert caught.value.reason == "extra_key"


@pytest.fixture(scope="module")
def rekeyed(site: Membership) -> tuple[Membership, SigningKey]:
    """The site under a roster in which it has a new key, and the key before until second 1500; and the new key."""
    party, key = site.party, SigningKey.generate("ML-DSA-65")
    both = replace(party, signing_key=key.verifying_key, former=FormerKey(party.signing_key, 1500))
    roster = replace(site.roster, parties=MappingProxyType({**site.roster.parties, str(party.id): both}))
    return replace(site, roster=roster), key


def rekeyed_intake(member: Membership, clock: Callable[[], float]) -> Intake:
    return Intake(member.roster, for_level("high"), clock, Stopwatch())


@pytest.mark.parametrize(
    ("is_former", "now", "reason"),
    [(True, 1500, ""), (True, 1501, "wrong_sender_key"), (False, 1000, ""), (False, 1501, "")],
)
def test_a_former_key_s_updates_are_taken_until_its_time_is_over(
    federation: Federation, rekeyed: tuple[Membership, SigningKey], *, is_former: bool, now: float, reason: str
) -> None:
    """Body, trailer and all, and the round knows which key it was."""
    member, key = rekeyed
    if not is_former:
        member = replace(member, identity=replace(member.identity, key=key))
    open_round, taker = collecting(federation), rekeyed_intake(member, lambda: now)
    data = seal(member, trailer=True)
    if reason:
        with pytest.raises(MessageError) as caught:
            asyncio.run(taker.take(upload(data), open_round))
        assert caught.value.reason == reason
        return
    asyncio.run(taker.take(upload(data), open_round))
    sender = str(member.identity.id)
    assert open_round.round.signer(sender) == member.identity.key.verifying_key.fingerprint


def test_an_upload_begun_under_the_former_key_finishes(
    federation: Federation, rekeyed: tuple[Membership, SigningKey]
) -> None:
    """Its time was over while the body came; nothing new is begun under that key."""
    member, _ = rekeyed
    now = [1400.0]
    open_round, taker, data = collecting(federation), rekeyed_intake(member, lambda: now[0]), seal(member)

    async def slowly() -> AsyncIterator[bytes]:
        yield data[:-100]
        await asyncio.sleep(0)
        now[0] = 1600.0
        yield data[-100:]

    begun = replace(upload(data), body=slowly())
    taken = asyncio.run(taker.take(begun, open_round))
    assert isinstance(taken, Accepted)
    with pytest.raises(MessageError) as caught:
        asyncio.run(taker.take(upload(seal(member)), collecting(federation)))
    assert caught.value.reason == "wrong_sender_key"


def test_a_former_key_that_is_revoked_during_an_upload_ends_it(
    federation: Federation, rekeyed: tuple[Membership, SigningKey]
) -> None:
    """Its party is a member as before."""
    member, _ = rekeyed
    uri = str(member.identity.id)
    known = [member.roster.party(uri), replace(member.roster.party(uri), former=None)]

    class Revoking:
        def party(self, _uri: str) -> Party:
            return known.pop(0)

    open_round = collecting(federation)
    taker = Intake(Revoking(), for_level("high"), lambda: NOW, Stopwatch())
    with pytest.raises(MessageError, match="revoked since") as caught:
        asyncio.run(taker.take(upload(seal(member)), open_round))
    assert caught.value.reason == "wrong_sender_key"
    assert open_round.round.updates == {}
