"""What a name in a policy rests on: whatever falls takes with it all that is built of it.

A hybrid rests on its post-quantum half. When that half falls, the hybrid is refused: what remains is classical, and the
recording that is made today is read later. When the classical half falls, the hybrid stays: resisting without it is
what it was built for. Whoever wants it gone all the same strikes it by its own name.
"""

from types import MappingProxyType

from pqfl_transport.algorithms import CONTENT_SUITES, TABLE, Kind, find
from pqfl_transport.errors import ConfigurationError, PolicyError

Part = tuple[Kind, str]
"""A row: what it is used as, and its name in the table or, for a content suite, its id."""

_RESTS_ON = MappingProxyType(
    {
        (Kind.TLS_GROUP, "X25519MLKEM768"): (Kind.KEM, "ML-KEM-768"),
        (Kind.TLS_GROUP, "SecP256r1MLKEM768"): (Kind.KEM, "ML-KEM-768"),
        (Kind.TLS_GROUP, "SecP384r1MLKEM1024"): (Kind.KEM, "ML-KEM-1024"),
        (Kind.TLS_GROUP, "MLKEM512"): (Kind.KEM, "ML-KEM-512"),
        (Kind.TLS_GROUP, "MLKEM768"): (Kind.KEM, "ML-KEM-768"),
        (Kind.TLS_GROUP, "MLKEM1024"): (Kind.KEM, "ML-KEM-1024"),
        (Kind.KEM, "ML-KEM-768+X25519"): (Kind.KEM, "ML-KEM-768"),
        (Kind.KEM, "ML-KEM-1024+P-384"): (Kind.KEM, "ML-KEM-1024"),
        (Kind.TLS_SUITE, "TLS_AES_256_GCM_SHA384"): (Kind.AEAD, "AES-256-GCM"),
        (Kind.TLS_SUITE, "TLS_CHACHA20_POLY1305_SHA256"): (Kind.AEAD, "ChaCha20-Poly1305"),
        # Cobblestone cuts a body into chunks; each of them is AES-256-GCM.
        (Kind.AEAD, "Cobblestone-256"): (Kind.AEAD, "AES-256-GCM"),
        **{(row.kind, row.name): (Kind.KEM, row.hybrid_of) for row in TABLE if row.hybrid_of},
    }
)


def rests_on(kind: Kind, name: str) -> frozenset[Part]:
    """Return this row and every row without which it is worth nothing."""
    if kind is Kind.CONTENT_SUITE:
        suite = CONTENT_SUITES[name]
        direct: tuple[Part, ...] = (
            (Kind.KEM, suite.kem),
            (Kind.SIGNATURE, suite.signature),
            (Kind.AEAD, suite.aead),
            (Kind.AEAD, suite.body),
        )
    else:
        below = _RESTS_ON.get((kind, name))
        direct = () if below is None else (below,)
    return frozenset({(kind, name)}).union(*(rests_on(*part) for part in direct))


def meant_by(name: str) -> frozenset[Part]:
    """Return every row that ``name`` or an alias of it means, of whatever kind; none for a name not known here.

    What the table itself calls broken is refused anyway and is none of them.
    """
    parts: set[Part] = {(Kind.CONTENT_SUITE, name)} if name in CONTENT_SUITES else set()
    for kind in Kind:
        try:
            parts.add((kind, find(name, kind).name))
        except (ConfigurationError, PolicyError):
            continue
    return frozenset(parts)


def is_listed(name: str) -> bool:
    """Whether this is exactly the name of a row or the id of a content suite, and no alias."""
    return name in CONTENT_SUITES or any(row.name == name for row in TABLE)
