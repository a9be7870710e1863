"""The round that was open when the aggregator ended, as it was: its key, its challenge, what was accepted in it.

Every accepted update is opened once before it counts again. Where one does not open, the round is opened anew, and its
sender is asked again like all others: a round that silently lost an update would average the others alone.
"""

from collections.abc import Mapping

from aggregator.contents import StoredUpdate
from aggregator.intake import Collecting
from aggregator.rounds import Round, State
from aggregator.store.reading import read_prologue
from aggregator.store.records import KeptRound, KeptUpdate, Standing
from aggregator.store.updates import KeptUpdates
from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.content.keysource import KeySource, extra_material, settle
from pqfl_transport.content.opening import content_key
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import MessageError, PqflError, RoundError
from pqfl_transport.pki.roster import Party
from pqfl_transport.policy import Policy


def require_unchanged(
    kept: KeptRound, policy: Policy, *, base_digest: bytes, roster: int, quorum: int, now: float
) -> None:
    """Raise for a round that cannot go on as it was opened.

    ``RoundError`` (``changed``, ``expired``), ``PolicyError`` (``content_suite``): what its updates are sealed with is
    not opened any more.
    """
    terms = kept.terms
    policy.require_content_suite(terms.suite)
    if (terms.base_digest, kept.roster, terms.quorum) != (base_digest, roster, quorum):
        raise RoundError(
            f"round {terms.number} was opened with roster {kept.roster} and a quorum of {terms.quorum}, these are"
            f" roster {roster} and {quorum}",
            reason="changed",
        )
    if kept.standing is Standing.COLLECTING and now >= terms.deadline and len(kept.updates) < quorum:
        raise RoundError(
            f"the deadline of round {terms.number} passed without its quorum while nobody took updates",
            reason="expired",
        )


def resume(
    kept: KeptRound,
    key: ReceivingKey,
    base: Weights,
    updates: KeptUpdates,
    parties: Mapping[str, Party],
    keys: KeySource | None = None,
) -> Collecting:
    """Return the round with everything that was accepted; takes its time, so no event loop calls it.

    Raises ``RoundError`` (``damaged_update``) for the first update that does not open any more, whichever way.
    """
    round_ = Round(kept.terms)
    for one in kept.updates:
        round_.restore(one.receipt, _restored(one, key, base, updates, parties, keys))
    if kept.standing is Standing.AGGREGATING:
        round_.state = State.AGGREGATING
    return Collecting(round_, key if round_.state is State.COLLECTING else None, base, updates)


def _restored(
    one: KeptUpdate,
    key: ReceivingKey,
    base: Weights,
    updates: KeptUpdates,
    parties: Mapping[str, Party],
    keys: KeySource | None,
) -> StoredUpdate:
    receipt, path = one.receipt, updates.path(one.receipt.prologue_digest)
    try:
        with path.open("rb") as file:
            prologue, _ = read_prologue(file)
        if prologue.digest != receipt.prologue_digest:
            raise MessageError("it has another prologue", reason="replay")
        sender = parties[receipt.sender]
        signer = _signer(sender, receipt.signer)
        # Only for the envelope that was accepted is an extra key fetched again.
        unwrapped, extra = content_key(prologue, key), extra_material(prologue, keys)
    except (OSError, KeyError, PqflError) as error:
        raise RoundError(
            f"the update of {receipt.sender} cannot be opened again: {error}", reason="damaged_update"
        ) from error
    stored = StoredUpdate(
        path, receipt.prologue_digest, sender, one.samples, base, sender_key=signer, key=unwrapped, extra=extra
    )
    # Asking for it is what shows that it is whole.
    _ = stored.delta
    settle(prologue, keys)
    return stored


def _signer(sender: Party, fingerprint: bytes) -> VerifyingKey:
    # When it was accepted the key counted; whether its sender still does is asked before the average is made.
    known = [sender.signing_key] if sender.former is None else [sender.signing_key, sender.former.key]
    for key in known:
        if key.fingerprint == fingerprint:
            return key
    raise MessageError("the roster has its signing key no more", reason="wrong_sender_key")
