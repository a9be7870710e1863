"""The start-up self-test: it passes here, and it can fail."""

import json
import re
from importlib import resources
from typing import Any

import pytest

from pqfl_transport.algorithms import CONTENT_SUITES
from pqfl_transport.crypto import selftest
from pqfl_transport.errors import PlatformError

VECTORS: list[dict[str, Any]] = json.loads(
    resources.files("pqfl_transport.crypto").joinpath("selftest_vectors.json").read_bytes()
)


def test_it_covers_every_primitive_of_every_content_suite() -> None:
    """No suite can be used whose primitives were not tested at start."""
    checked = " ".join(selftest.run_self_test())
    # Experimental suites come from another library, which tests itself and is off unless a policy names them.
    for suite in (suite for suite in CONTENT_SUITES.values() if not suite.is_experimental):
        for part in (suite.kem, suite.signature, suite.kdf, suite.body):
            assert part in checked
    assert "AES-256-CTR" in checked


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["algorithm"])
def test_a_wrong_answer_stops_the_program(vector: dict[str, Any]) -> None:
    """One changed byte in what a primitive has to give ends in a PlatformError that names the primitive."""
    answers = {
        "signature": "signature",
        "kem": "plaintext",
        "body": "plaintext",
        "kdf": "okm",
        "keystream": "keystream",
    }
    expected = answers[vector["check"]]
    wrong = bytearray.fromhex(vector[expected])
    wrong[0] ^= 1
    with pytest.raises(PlatformError, match=re.escape(vector["algorithm"])) as caught:
        selftest.check_vectors([vector | {expected: wrong.hex()}])
    assert caught.value.reason == "self_test"


def test_a_library_that_accepts_forgeries_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verify that never raises passes the good vector and is still refused."""
    monkeypatch.setattr("pqfl_transport.crypto.pyca.VerifyingKey.verify", lambda *_arguments: None)
    with pytest.raises(PlatformError, match="forgery"):
        selftest.check_vectors(VECTORS)
