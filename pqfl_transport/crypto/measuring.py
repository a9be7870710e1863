"""What the algorithms of a policy cost on this machine, measured on the spot in a fraction of a second.

Each operation is timed a few times and the quickest counts: whatever else the machine does only ever adds to it. The
numbers decide the order of preference of `policy.prefer` and nothing that is secret.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import PlatformError
from pqfl_transport.policy import Costs, Policy

_RUNS = 5
_MEBIBYTE = 1 << 20
_NONCE = bytes(12)

Clock = Callable[[], float]
Value = TypeVar("Value")


def measure(policies: Iterable[Policy], clock: Clock = time.perf_counter) -> Costs:
    """Time every group, leaf key and TLS suite of these policies. ``clock`` is replaced in tests only.

    Raises ``PlatformError`` (``not_measurable``) for one that only OpenSSL itself can do.
    """
    listed = tuple(policies)
    groups = {group for policy in listed for group in policy.groups}
    leaves = {leaf for policy in listed for leaf in policy.leaf_keys}
    suites = {suite for policy in listed for suite in policy.tls_suites}
    keys = {leaf: _signing_key(leaf) for leaf in leaves}
    return Costs(
        exchange={group: _seconds(_known(group, _EXCHANGES), clock) for group in groups},
        sign={leaf: _seconds(partial(key.sign, b"", Context.AUDIT), clock) for leaf, key in keys.items()},
        verify={leaf: _seconds(_verification(key), clock) for leaf, key in keys.items()},
        mebibyte={suite: _seconds(_cipher(_known(suite, _CIPHERS)), clock) for suite in suites},
    )


def _seconds(operation: Callable[[], object], clock: Clock) -> float:
    quickest = float("inf")
    for _ in range(_RUNS):
        began = clock()
        operation()
        quickest = min(quickest, clock() - began)
    return quickest


def _known(name: str, table: Mapping[str, Value]) -> Value:
    try:
        return table[name]
    except KeyError:
        raise _not_measurable(name) from None


def _signing_key(name: str) -> SigningKey:
    try:
        return SigningKey.generate(name)
    except KeyError:
        raise _not_measurable(name) from None


def _verification(key: SigningKey) -> Callable[[], None]:
    signature = key.sign(b"", Context.AUDIT)
    return partial(key.verifying_key.verify, signature, b"", Context.AUDIT)


def _not_measurable(name: str) -> PlatformError:
    return PlatformError(f"what {name} costs cannot be measured here: only OpenSSL has it", reason="not_measurable")


def _mlkem(kind: type[MLKEM768PrivateKey | MLKEM1024PrivateKey]) -> None:
    key = kind.generate()
    _, ciphertext = key.public_key().encapsulate()
    key.decapsulate(ciphertext)


def _x25519() -> None:
    key = X25519PrivateKey.generate()
    key.exchange(key.public_key())


def _ecdh(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    key.exchange(ec.ECDH(), key.public_key())


def _all_of(*steps: Callable[[], None]) -> None:
    for step in steps:
        step()


def _cipher(kind: type[AESGCM | ChaCha20Poly1305]) -> Callable[[], bytes]:
    return partial(kind(bytes(32)).encrypt, _NONCE, bytes(_MEBIBYTE), None)


_MLKEM_768, _MLKEM_1024 = partial(_mlkem, MLKEM768PrivateKey), partial(_mlkem, MLKEM1024PrivateKey)
_EXCHANGES: Mapping[str, Callable[[], None]] = MappingProxyType(
    {
        "X25519MLKEM768": partial(_all_of, _MLKEM_768, _x25519),
        "SecP256r1MLKEM768": partial(_all_of, _MLKEM_768, partial(_ecdh, ec.SECP256R1())),
        "SecP384r1MLKEM1024": partial(_all_of, _MLKEM_1024, partial(_ecdh, ec.SECP384R1())),
        "MLKEM768": _MLKEM_768,
        "MLKEM1024": _MLKEM_1024,
    }
)
_CIPHERS: Mapping[str, type[AESGCM | ChaCha20Poly1305]] = MappingProxyType(
    {"TLS_AES_256_GCM_SHA384": AESGCM, "TLS_CHACHA20_POLY1305_SHA256": ChaCha20Poly1305}
)
