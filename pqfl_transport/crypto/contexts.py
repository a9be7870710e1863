"""Every ML-DSA context string and every derivation label of the project, in one place.

A signature made for one kind of message must never pass for another (FIPS 204 §5.2 binds the context string), so no
other module spells one out.
"""

from enum import Enum

from pqfl_transport.errors import MessageError

LENGTH_BYTES = 4
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
    SECAGG_ADVERTISE = DOMAIN + b"secagg-advertise"
    SECAGG_ADVERTISED = DOMAIN + b"secagg-advertised"
    SECAGG_SHARE = DOMAIN + b"secagg-share"
    SECAGG_SHARED = DOMAIN + b"secagg-shared"
    SECAGG_UPLOADED = DOMAIN + b"secagg-uploaded"
    SECAGG_CONSISTENCY = DOMAIN + b"secagg-consistency"
    SECAGG_AGREED = DOMAIN + b"secagg-agreed"
    SECAGG_UNMASK = DOMAIN + b"secagg-unmask"


class Label(bytes, Enum):
    """The label of each derivation and binding hash: of envelopes and key files, of joining, of secure aggregation.

    `content/ENVELOPE.md` and `aggregation/secagg/SECAGG.md` say what each is for.
    """

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
    SECAGG_ROUND = DOMAIN + b"secagg-round"
    SECAGG_TRANSCRIPT = DOMAIN + b"secagg-transcript"
    SECAGG_UPLOADERS = DOMAIN + b"secagg-uploaders"
    SECAGG_CHALLENGE = DOMAIN + b"secagg-challenge"
    SECAGG_MASK_PAIR = DOMAIN + b"secagg-mask-pair"
    SECAGG_DIRECTED_KEY = DOMAIN + b"secagg-directed-key"
    SECAGG_PAIR_KEY = DOMAIN + b"secagg-pair-key"
    SECAGG_SEAL = DOMAIN + b"secagg-seal"
    SECAGG_PACKET = DOMAIN + b"secagg-packet"
    SECAGG_COMMITMENT = DOMAIN + b"secagg-commitment"


def length_prefixed(*items: bytes) -> bytes:
    """Return ``LP(items…)``: every item preceded by its length, 4 bytes, big-endian."""
    return b"".join(part for item in items for part in (len(item).to_bytes(LENGTH_BYTES, "big"), item))


def split_prefixed(data: bytes, *, maximum: int) -> list[bytes]:
    """Split ``LP(…)`` into its items. Raises ``MessageError`` (``malformed``): cut short, more than ``maximum``."""
    items: list[bytes] = []
    at = 0
    while at < len(data):
        if len(items) == maximum:
            raise MessageError(f"more than {maximum} items", reason="malformed")
        start = at + LENGTH_BYTES
        end = start + int.from_bytes(data[at:start], "big")
        if start > len(data) or end > len(data):
            raise MessageError("cut short", reason="malformed")
        items.append(data[start:end])
        at = end
    return items
