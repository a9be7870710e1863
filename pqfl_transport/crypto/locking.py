"""Secrets of our own under a passphrase: Argon2id (RFC 9106) makes the key, Cobblestone-256 carries the secret.

    locked = LP("argon2id", passes, lanes, memory, salt, Cobblestone-256(key, context, secret))
    key    = Argon2id(passphrase, salt, passes, lanes, memory KiB, 32 bytes)
    context = SHA-512(LP(D"key-file", binding, LP("argon2id", passes, lanes, memory, salt)))

The three numbers are 4 bytes, big-endian. Three passes over 64 MiB in four lanes is the second recommendation of RFC
9106 §4, the one for machines that have other things to do. Cobblestone commits to its key, so no file opens under two
passphrases. ``binding`` is what stands beside the secret in plain sight: the secret opens with nothing else beside it.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from pqfl_transport.crypto.contexts import Label, length_prefixed
from pqfl_transport.crypto.pkcs8 import wrong_passphrase
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, BODY_KEY_BYTES, BodyDecryptor, body_encryptor
from pqfl_transport.errors import ConfigurationError, MessageError

MAX_MEMORY_KIB = 256 << 10
"""The most memory that a file may make this process allocate: 256 MiB."""
MAX_PASSES = 16
MAX_LANES = 16

_ALGORITHM = b"argon2id"
_SALT_BYTES = 16
_NUMBER_BYTES = 4
_ITEMS = 6
_MIN_MEMORY_PER_LANE_KIB = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """What deriving a key takes."""

    passes: int = 3
    lanes: int = 4
    memory_kib: int = 64 << 10

    def require_bearable(self) -> None:
        """Raise ``ConfigurationError`` (``key_cost``) unless it is within the caps and what Argon2 can do."""
        if not (
            1 <= self.passes <= MAX_PASSES
            and 1 <= self.lanes <= MAX_LANES
            and _MIN_MEMORY_PER_LANE_KIB * self.lanes <= self.memory_kib <= MAX_MEMORY_KIB
        ):
            raise ConfigurationError(
                f"demands {self.passes} passes of Argon2id over {self.memory_kib} KiB in {self.lanes} lanes;"
                f" at most {MAX_PASSES} over {MAX_MEMORY_KIB} KiB in {MAX_LANES}",
                reason="key_cost",
            )


DEFAULT_COST = Cost()


def lock(
    secret: bytes,
    passphrase: bytes,
    binding: bytes,
    *,
    cost: Cost = DEFAULT_COST,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> bytes:
    """Return ``secret`` under a passphrase and bound to ``binding``; the rest is replaced in tests only."""
    parameters = _encode(cost, random(_SALT_BYTES))
    encryptor = body_encryptor(_derive(cost, parameters[-1], passphrase), _context(binding, parameters))
    return length_prefixed(*parameters, encryptor.update(secret) + encryptor.finalize())


def unlock(items: list[bytes], passphrase: bytes, binding: bytes) -> bytes:
    """Return the secret from the items of what `lock` made.

    Raises ``ConfigurationError``: ``bad_key`` for items that are none, ``key_cost`` for a demand above the caps,
    ``wrong_passphrase`` where it does not open, be it the passphrase or that anything was changed.
    """
    *parameters, sealed = items if len(items) == _ITEMS else [b""]
    cost, salt = _decode(parameters)
    cost.require_bearable()
    decryptor = BodyDecryptor(_derive(cost, salt, passphrase), _context(binding, parameters))
    plain = bytearray(len(sealed) + BODY_CHUNK_BYTES)
    try:
        count = decryptor.update_into(sealed, plain)
        return bytes(plain[:count]) + decryptor.finalize()
    except MessageError:
        raise wrong_passphrase() from None
    finally:
        plain[:] = bytes(len(plain))


def _encode(cost: Cost, salt: bytes) -> list[bytes]:
    numbers = (cost.passes, cost.lanes, cost.memory_kib)
    return [_ALGORITHM, *(number.to_bytes(_NUMBER_BYTES, "big") for number in numbers), salt]


def _decode(parameters: list[bytes]) -> tuple[Cost, bytes]:
    match parameters:
        case [algorithm, passes, lanes, memory, salt] if (
            algorithm == _ALGORITHM
            and len(salt) == _SALT_BYTES
            and all(len(number) == _NUMBER_BYTES for number in (passes, lanes, memory))
        ):
            return Cost(*(int.from_bytes(number, "big") for number in (passes, lanes, memory))), salt
    raise ConfigurationError("the encrypted part is damaged, or derives its key in an unknown way", reason="bad_key")


def _derive(cost: Cost, salt: bytes, passphrase: bytes) -> bytes:
    return Argon2id(
        salt=salt, length=BODY_KEY_BYTES, iterations=cost.passes, lanes=cost.lanes, memory_cost=cost.memory_kib
    ).derive(passphrase)


def _context(binding: bytes, parameters: list[bytes]) -> bytes:
    return hashlib.sha512(length_prefixed(Label.KEY_FILE.value, binding, length_prefixed(*parameters))).digest()
