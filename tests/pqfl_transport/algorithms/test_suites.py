"""Content suites: made of rows that exist, experimental ones recognisable by their id."""

import hashlib
import os

import pytest

from pqfl_transport.algorithms import CONTENT_SUITES, Kind, find
from pqfl_transport.crypto.pyca import DecapsulationKey
from pqfl_transport.policy import POLICIES

STANDARD = [suite for suite in CONTENT_SUITES.values() if not suite.is_experimental]


@pytest.mark.parametrize("suite", STANDARD, ids=lambda suite: suite.id)
def test_kem_sizes_are_what_the_library_makes(suite: object) -> None:
    """The sizes of every KEM that envelopes use are those of real keys and encapsulations."""
    row = find(suite.kem, Kind.KEM)  # type: ignore[attr-defined]
    key = DecapsulationKey(row.name, os.urandom(row.seed_bytes or 0))
    assert len(key.public.raw) == row.public_key_bytes
    assert len(key.public.wrap(bytes(32), b"")) == (row.ciphertext_bytes or 0) + 32 + 16


def test_suites_name_rows_that_exist() -> None:
    """Every part of a content suite is a row of its kind and a hash that exists."""
    for suite in CONTENT_SUITES.values():
        assert find(suite.kem, Kind.KEM).name == suite.kem
        assert find(suite.signature, Kind.SIGNATURE).name == suite.signature
        assert find(suite.aead, Kind.AEAD).name == suite.aead
        assert find(suite.body, Kind.AEAD).name == suite.body
        assert suite.trailer_hash.lower().replace("-", "") in hashlib.algorithms_available


def test_ids_say_what_a_suite_is() -> None:
    """The first suites keep their ids for ever; a ChaCha20 one and an experimental one are told by theirs."""
    assert {
        "pqfl/v1/mlkem768x25519-mldsa44", "pqfl/v1/mlkem768x25519-mldsa65", "pqfl/v1/mlkem1024p384-mldsa87",
        "pqfl/v1/mlkem1024-mldsa87",
    } <= {suite.id for suite in STANDARD}  # fmt: skip
    for suite in CONTENT_SUITES.values():
        assert ("-chacha-" in suite.id) == (suite.aead == "ChaCha20-Poly1305")
        assert suite.is_experimental == bool(find(suite.kem, Kind.KEM).hybrid_of)
        assert suite.id.endswith(suite.signature.replace("-", "").lower())


def test_no_policy_of_ours_lists_an_experimental_suite() -> None:
    """They are off unless an operator's own policy names them."""
    for policy in POLICIES.values():
        assert not any(CONTENT_SUITES[suite].is_experimental for suite in policy.content_suites)


def test_the_signature_fits_the_category_of_the_kem() -> None:
    """An experimental suite signs at the category that its KEM claims, or above."""
    for suite in (suite for suite in CONTENT_SUITES.values() if suite.is_experimental):
        kem, signature = find(suite.kem, Kind.KEM), find(suite.signature, Kind.SIGNATURE)
        assert (signature.nist_category or 0) >= (kem.nist_category or 0)
