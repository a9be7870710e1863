"""A start-up test of the crypto door with fixed vectors: a wrong library is found before it touches a patient's data.

Every service runs it once. Sealing and signing are randomised, so what is fixed is expanding seeds, verifying and
opening; that the door agrees with the published vectors of NIST, IETF and C2SP is shown in the test-suite.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import BodyDecryptor, DecapsulationKey, Keystream, SigningKey, hkdf_sha512
from pqfl_transport.errors import MessageError, PlatformError

_VECTORS = "selftest_vectors.json"


@cache
def run_self_test() -> tuple[str, ...]:
    """Check every primitive against its fixed vector, once a process; return the names of what was checked.

    Raises ``PlatformError`` naming the first primitive that gives a wrong answer.
    """
    return check_vectors(json.loads(resources.files(__package__).joinpath(_VECTORS).read_bytes()))


def check_vectors(vectors: list[dict[str, Any]]) -> tuple[str, ...]:
    """Check the primitives against these vectors; return their names. Raises ``PlatformError`` as above."""
    checked = []
    for vector in vectors:
        name = f"{vector['check']} {vector['algorithm']}"
        try:
            _CHECKS[vector["check"]](vector)
        except Exception as error:
            raise PlatformError(
                f"self-test of {name} failed ({error}); this build of the crypto library must not be used",
                reason="self_test",
            ) from error
        checked.append(name)
    return tuple(checked)


def _check_signature(vector: dict[str, Any]) -> None:
    key = SigningKey.from_seed(vector["algorithm"], bytes.fromhex(vector["seed"])).verifying_key
    _equal(hashlib.sha256(key.spki).hexdigest(), vector["spki_sha256"])
    signature = bytes.fromhex(vector["signature"])
    key.verify(signature, bytes.fromhex(vector["message"]), Context.PROLOGUE)
    _must_refuse(lambda: key.verify(signature, b"another message", Context.PROLOGUE))
    _must_refuse(lambda: key.verify(signature, bytes.fromhex(vector["message"]), Context.TRAILER))


def _check_kem(vector: dict[str, Any]) -> None:
    key = DecapsulationKey(vector["algorithm"], bytes.fromhex(vector["seed"]))
    _equal(hashlib.sha256(key.public.raw).hexdigest(), vector["public_sha256"])
    wrapped, info = bytes.fromhex(vector["wrapped"]), bytes.fromhex(vector["info"])
    _equal(key.unwrap(wrapped, info).hex(), vector["plaintext"])
    _must_refuse(lambda: key.unwrap(wrapped, b"another purpose"))
    fresh = bytes(range(32))
    _equal(key.unwrap(key.public.wrap(fresh, info), info).hex(), fresh.hex())


def _check_body(vector: dict[str, Any]) -> None:
    key, context, body = (bytes.fromhex(vector[field]) for field in ("key", "context", "body"))
    buffer = bytearray(len(body) + 2 * 16 * 1024)
    decryptor = BodyDecryptor(key, context)
    written = decryptor.update_into(body, buffer)
    _equal((bytes(buffer[:written]) + decryptor.finalize()).hex(), vector["plaintext"])
    damaged = bytearray(body)
    damaged[-1] ^= 1

    def open_damaged() -> None:
        decryptor = BodyDecryptor(key, context)
        decryptor.update_into(damaged, buffer)
        decryptor.finalize()

    _must_refuse(open_damaged)


def _check_kdf(vector: dict[str, Any]) -> None:
    material, info = bytes.fromhex(vector["key_material"]), bytes.fromhex(vector["info"])
    _equal(hkdf_sha512(material, info, len(vector["okm"]) // 2).hex(), vector["okm"])


def _check_keystream(vector: dict[str, Any]) -> None:
    stream = bytearray(len(vector["keystream"]) // 2)
    offset_bytes = int(vector["counter"], 16) * 16
    Keystream(bytes.fromhex(vector["key"]), offset_bytes).fill(stream)
    _equal(stream.hex(), vector["keystream"])


_CHECKS: MappingProxyType[str, Callable[[dict[str, Any]], None]] = MappingProxyType(
    {
        "signature": _check_signature,
        "kem": _check_kem,
        "body": _check_body,
        "kdf": _check_kdf,
        "keystream": _check_keystream,
    }
)


def _equal(got: str, expected: str) -> None:
    if got != expected:
        raise PlatformError("wrong result", reason="self_test")


def _must_refuse(action: Callable[[], object]) -> None:
    try:
        action()
    except MessageError:
        return
    raise PlatformError("a forgery was accepted", reason="self_test")
