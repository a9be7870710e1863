"""What a row is.

Sizes are in bytes.
"""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Kind(StrEnum):
    """What a row can be used as."""

    KEM = "kem"
    SIGNATURE = "signature"
    AEAD = "aead"
    TLS_GROUP = "tls-group"
    TLS_SUITE = "tls-suite"
    CONTENT_SUITE = "content-suite"


class Status(StrEnum):
    """Whether a row may be used at all; which standard rows are used is the policy's decision."""

    STANDARD = "standard"
    DRAFT = "draft"
    CLASSICAL = "classical"
    EXPERIMENTAL = "experimental"
    SUPERSEDED = "superseded"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One algorithm, as a row. Sizes that do not apply are ``None``."""

    name: str
    kind: Kind
    family: str
    status: Status
    source: str
    nist_category: int | None = None
    aliases: tuple[str, ...] = ()
    public_key_bytes: int | None = None
    seed_bytes: int | None = None
    ciphertext_bytes: int | None = None
    signature_bytes: int | None = None
    code_point: int | None = None
    oid: str | None = None
    openssl_name: str | None = None
    providers: tuple[str, ...] = ()
    broken_on: date | None = None
    remark: str = ""
    """Why one would choose it, or not."""
    liboqs_name: str | None = None
    secret_key_bytes: int | None = None
    """Where a key has no seed form, the length of what is stored instead."""
    hybrid_of: str | None = None
    """The KEM that a row of our own combiner puts beside X25519 (ENVELOPE.md §10)."""
    rests_on: tuple[str, ...] = ()
    """The rows without which this one is not sound any more. Of a hybrid that is the post-quantum half alone: the other
    half is the second line for the day when the first one falls, and policies list hybrids for their first line."""


SUITE_PREFIX = "pqfl/v1/"
EXPERIMENTAL_PREFIX = f"{SUITE_PREFIX}x-"


@dataclass(frozen=True, slots=True)
class ContentSuite:
    """How an envelope is made: one id for version and suite, so that the two can never be mixed."""

    id: str
    kem: str
    signature: str
    kdf: str
    aead: str
    body: str
    trailer_hash: str

    @property
    def is_experimental(self) -> bool:
        """Whether the id says that no standard stands behind the key encapsulation."""
        return self.id.startswith(EXPERIMENTAL_PREFIX)


OPENSSL = "openssl"
PYCA = "cryptography"
LIBOQS = "liboqs"
