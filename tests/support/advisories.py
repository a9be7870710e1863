"""Advisories for tests, signed by the root of a test's federation or of its own."""

import time
from collections.abc import Iterable
from pathlib import Path

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.pki import keystore
from pqfl_transport.pki.advisory import sign_advisory
from pqfl_transport.policy import Advisory, Verdict, Withdrawal
from tests.support.pki import Federation


def advisory(
    algorithms: Iterable[str] = (),
    *,
    number: int = 1,
    federation: str = "fed",
    not_before: float = 0,
    seconds: float = 3600,
) -> Advisory:
    """An advisory of now that calls these broken and ends in so many seconds; negative ones end it in the past."""
    now = int(time.time())
    withdrawals = tuple(Withdrawal(name, Verdict.BROKEN, int(not_before), "a paper") for name in algorithms)
    return Advisory(federation, number, min(now, int(now + seconds) - 1), int(now + seconds), withdrawals)


def publish(
    federation: Federation, path: Path, *algorithms: str, key: SigningKey | None = None, **facts: float
) -> Path:
    """Write the federation's advisory, signed by its root unless another key is given."""
    root = key or keystore.load_signing_key(federation.ca / "root.key")
    number = int(facts.pop("number", 1))
    keystore.write_public(path, sign_advisory(advisory(algorithms, number=number, **facts), root))
    return path
