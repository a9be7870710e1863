"""Every kind of recipient under one suite: one, several, some together, with extra keys, with a stored key."""

from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.crypto.pyca import SigningKey
from tests.support.envelopes import Keys, split
from tests.support.forging import Forgery
from tests.vectors.envelope.cases.bodies import shared_contributions
from tests.vectors.envelope.cases.entries import Entry, bad, encode, good


def suites(keys: Keys, signers: dict[str, SigningKey]) -> list[Entry]:
    """Return envelopes of each kind of recipient, and what must not open under this suite's parts."""
    one = Forgery(keys=keys)
    sealed = one.seal()
    two = one.having(recipients=(keys.receiving, keys.other)).seal()
    wrapped = split(sealed)[0].wrapped[0]
    changed = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    shared, contributions = shared_contributions(keys, signers)
    ids, materials = (b"qkd:north-south:0001", b"psk:spring"), (b"q" * 32, b"p" * 48)
    extra = {name.decode(): material.hex() for name, material in zip(ids, materials, strict=True)}
    mixed = one.having(items={"extra_keys": length_prefixed(*ids)}, extra=materials).seal()
    prologue, body, trailer = split(two)
    return [
        good("§1", "one recipient", sealed),
        good("§1", "one recipient, trailer", one.having(items={"flags": b"\x01"}).seal()),
        good("§1", "two recipients, the first opens", two),
        good("§1", "two recipients, the second opens", two, key=1),
        good("§1", "two extra keys", mixed, extra=extra),
        good("§1", "two of three together", shared, contributions=[encode(one) for one in contributions]),
        good("§4", "a stored receiving key", sealed, receiving_pem=keys.receiving.to_pem().decode()),
        bad("§1", "another recipient's", sealed, "not_for_us", key=1),
        bad("§1", "a wrapped key with a bit changed, signed again",
            one.having(parts={"W": length_prefixed(changed)}).seal(), "not_for_us"),
        bad("§1", "a bit of the signature changed",
            prologue.raw[:-1] + bytes([prologue.raw[-1] ^ 1]) + body + trailer, "bad_signature"),
        bad("§1", "a bit of the body changed", prologue.raw + body[:-1] + bytes([body[-1] ^ 1]) + trailer, "bad_body"),
        bad("§1", "a bit of the trailer changed", two[:-1] + bytes([two[-1] ^ 1]), "bad_trailer"),
        bad("§1", "the trailer cut off", prologue.raw + body, "truncated"),
    ]  # fmt: skip
