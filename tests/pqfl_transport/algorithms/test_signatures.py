"""Rows of signatures: what the table says is what the libraries make."""

import pytest

from pqfl_transport.algorithms import LIBOQS, TABLE, Kind, Status
from pqfl_transport.crypto.contexts import Context
from pqfl_transport.crypto.pyca import SigningKey


@pytest.mark.parametrize("row", [row for row in TABLE if row.kind is Kind.SIGNATURE and row.name.startswith("ML-DSA")])
def test_signature_sizes_are_what_the_library_makes(row: object) -> None:
    """The sizes in the table are those of real keys and signatures."""
    key = SigningKey.generate(row.name)  # type: ignore[attr-defined]
    assert len(key.sign(b"m", Context.AUDIT)) == row.signature_bytes  # type: ignore[attr-defined]
    # The SPKI's algorithm identifier and bit string header take 22 bytes in front of the raw key (RFC 9881 §4).
    assert len(key.verifying_key.spki) == row.public_key_bytes + 22  # type: ignore[attr-defined]


def test_every_family_of_the_field_has_rows() -> None:
    """Lattice, hash, code and multivariate signatures can be chosen between, each with a reason."""
    rows = [row for row in TABLE if row.kind is Kind.SIGNATURE and LIBOQS in row.providers]
    assert {row.family for row in rows} == {"lattice", "hash", "code", "multivariate"}
    for prefix in ("ML-DSA", "SLH-DSA", "Falcon", "MAYO", "UOV", "SNOVA", "CROSS"):
        assert any(row.name.startswith(prefix) for row in rows), prefix
    for row in rows:
        assert row.remark, row.name
        assert row.nist_category in {1, 2, 3, 5}, row.name
        assert row.signature_bytes, row.name


def test_only_standards_are_called_standard() -> None:
    """What NIST has not published as a FIPS is an experiment here."""
    for row in TABLE:
        if row.kind is Kind.SIGNATURE and row.status is Status.STANDARD:
            assert row.source in {"FIPS 204", "FIPS 205"}


def test_the_twelve_parameter_sets_of_fips_205() -> None:
    """Object identifiers 20 to 31, each public key half of its secret key."""
    rows = [row for row in TABLE if row.name.startswith("SLH-DSA")]
    assert [row.oid for row in rows] == [f"2.16.840.1.101.3.4.3.{number}" for number in range(20, 32)]
    assert {(row.public_key_bytes, row.nist_category) for row in rows} == {(32, 1), (48, 3), (64, 5)}
