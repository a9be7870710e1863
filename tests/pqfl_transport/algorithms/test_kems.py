"""Rows of key encapsulation."""

from pqfl_transport.algorithms import LIBOQS, TABLE, Kind, Status, find

ROWS = [row for row in TABLE if row.kind is Kind.KEM]


def test_every_family_of_the_field_has_rows() -> None:
    """Structured and plain lattices and three code-based families, each with a category, sizes and a reason."""
    for prefix in ("ML-KEM", "FrodoKEM", "Classic-McEliece", "HQC", "BIKE", "kyber"):
        assert any(row.name.startswith(prefix) for row in ROWS), prefix
    for row in ROWS:
        if row.status is not Status.BROKEN:
            assert row.remark, row.name
            assert row.public_key_bytes, row.name
            assert row.ciphertext_bytes, row.name
            assert row.nist_category in {1, 2, 3, 5}, row.name
            assert row.seed_bytes or row.secret_key_bytes, row.name


def test_hybrids_add_a_key_of_x25519_on_each_side() -> None:
    """The sizes of a row beside X25519 follow from those of its KEM."""
    for row in (row for row in ROWS if row.hybrid_of):
        part = find(row.hybrid_of or "", Kind.KEM)
        assert row.name == f"{part.name}+X25519"
        assert row.public_key_bytes == (part.public_key_bytes or 0) + 32
        assert row.ciphertext_bytes == (part.ciphertext_bytes or 0) + 32
        assert row.status is Status.EXPERIMENTAL
        assert row.providers == (LIBOQS,)


def test_what_is_unsafe_for_keys_used_twice_gets_no_hybrid() -> None:
    """Superseded rows, ephemeral ones and those without security against chosen ciphertexts stay out of envelopes."""
    hybrids = {row.hybrid_of for row in ROWS if row.hybrid_of}
    assert not any((name or "").startswith(("BIKE", "eFrodoKEM", "kyber")) for name in hybrids)


def test_names_of_hqc_by_security_level() -> None:
    """Papers say HQC-128, the library says HQC-1."""
    assert find("HQC-192").name == "HQC-3"
