"""Every ML-DSA context string and every derivation label of the project, in one place.

A signature made for one kind of message must never pass for another (FIPS 204 §5.2 binds the context string), so no
other module spells one out.
"""

from enum import Enum

DOMAIN = b"pqfl/v1/"


class Context(bytes, Enum):
    """The ML-DSA context string of each kind of signed message."""

    PROLOGUE = DOMAIN + b"prologue"
    TRAILER = DOMAIN + b"trailer"
    ROSTER = DOMAIN + b"roster"
    ROUND = DOMAIN + b"round"
    AUDIT = DOMAIN + b"audit"
    ADVISORY = DOMAIN + b"advisory"
    CONTRIBUTION = DOMAIN + b"contribution"
    RECEIVING_KEY = DOMAIN + b"receiving-key"
    RENEWAL = DOMAIN + b"renewal"
    RENEWAL_SIGNING = DOMAIN + b"renewal-signing"
    RENEWAL_TWIN = DOMAIN + b"renewal-twin"


class Label(bytes, Enum):
    """The label of each derivation and binding hash: envelopes, key files (`content/ENVELOPE.md`), joining, masks."""

    MIX = DOMAIN + b"mix"
    WRAP = DOMAIN + b"wrap"
    BODY = DOMAIN + b"body"
    SHARE = DOMAIN + b"share"
    COMBINE = DOMAIN + b"combine"
    SHARE_WRAP = DOMAIN + b"share-wrap"
    KEY_FILE = DOMAIN + b"key-file"
    PSK = DOMAIN + b"psk"
    JOIN_TOKEN = DOMAIN + b"join-token"
    JOIN_REQUEST = DOMAIN + b"join-request"
    JOIN_ANSWER = DOMAIN + b"join-answer"
    MASK_OWN = DOMAIN + b"mask-own"
    MASK_PAIR = DOMAIN + b"mask-pair"
    ROUNDING = DOMAIN + b"rounding"


def length_prefixed(*items: bytes) -> bytes:
    """Return ``LP(items…)``: every item preceded by its length, 4 bytes, big-endian."""
    return b"".join(part for item in items for part in (len(item).to_bytes(4, "big"), item))
