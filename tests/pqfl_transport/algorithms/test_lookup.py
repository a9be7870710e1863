"""Algorithms as rows: names, aliases, sizes, and the rows that must never be used."""

import pytest

from pqfl_transport.algorithms import (
    CONTENT_SUITES,
    TABLE,
    Kind,
    Status,
    content_suite,
    find,
    foundation,
    meant_by,
)
from pqfl_transport.errors import ConfigurationError, PolicyError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Kyber512", "ML-KEM-512"),
        ("Kyber768", "ML-KEM-768"),
        ("kyber-1024", "ML-KEM-1024"),
        ("mlkem768", "ML-KEM-768"),
        ("Dilithium2", "ML-DSA-44"),
        ("Dilithium3", "ML-DSA-65"),
        ("dilithium5", "ML-DSA-87"),
        ("SPHINCS+", "SLH-DSA-SHA2-128s"),
        ("X-Wing", "ML-KEM-768+X25519"),
        ("ml_dsa_65", "ML-DSA-65"),
    ],
)
def test_a_name_from_an_older_paper_means_the_standard(written: str, meant: str) -> None:
    """An alias is only a spelling: it leads to the row of the standard."""
    assert find(written).name == meant


def test_round_three_kyber_is_a_row_of_its_own() -> None:
    """Round-3 Kyber does not interoperate with ML-KEM, so its name never leads there."""
    row = find("kyber768-round3")
    assert row.name == "kyber768-round3"
    assert row.status is Status.SUPERSEDED


@pytest.mark.parametrize(
    ("name", "when"), [("Rainbow", "2022-02-25"), ("SIKE", "2022-07-30"), ("SIKEp434", "2022-07-30")]
)
def test_a_broken_algorithm_is_refused_with_reason_and_date(name: str, when: str) -> None:
    """Asking for a broken algorithm says what broke it and when, and ends as a refusal by policy."""
    with pytest.raises(PolicyError, match=when) as caught:
        find(name)
    assert caught.value.reason == "broken"
    assert "ePrint" in str(caught.value)


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed() -> None:
    """A typing error is answered with the names that exist, never with a guess."""
    with pytest.raises(ConfigurationError, match=r"known are .*ML-DSA-65") as caught:
        find("Kyber2048", Kind.SIGNATURE)
    assert caught.value.reason == "unknown_algorithm"


def test_the_kind_decides_between_a_kem_and_a_group_of_the_same_spelling() -> None:
    """MLKEM768 is a KEM unless a TLS group is asked for."""
    assert find("MLKEM768").kind is Kind.KEM
    assert find("MLKEM768", Kind.TLS_GROUP).code_point == 0x0201


def test_no_spelling_means_two_rows_of_one_kind() -> None:
    """Every name and alias is unambiguous within its kind."""
    seen: dict[tuple[Kind, str], str] = {}
    for row in TABLE:
        for word in (row.name, *row.aliases):
            spelling = word.casefold().replace("-", "").replace("_", "")
            assert seen.setdefault((row.kind, spelling), row.name) == row.name


def test_an_unknown_content_suite_is_refused() -> None:
    """A suite id that no row has is refused by policy, whatever it resembles."""
    with pytest.raises(PolicyError, match="unknown content suite"):
        content_suite("pqfl/v1/mlkem768x25519-mldsa66")


def test_signatures_of_ordinary_rsa_certificates_are_rows_of_their_own() -> None:
    """They sign certificates and never a handshake, so no shorter name of RSA leads to them."""
    for name, code_point in (("RSA-PKCS1-SHA256", 0x0401), ("RSA-PKCS1-SHA384", 0x0501)):
        row = find(name, Kind.SIGNATURE)
        assert (row.status, row.code_point, row.openssl_name) == (
            Status.CLASSICAL, code_point, name.lower().replace("-", "_"),
        )  # fmt: skip
        assert "certificates only" in row.remark
    assert find("RSA", Kind.SIGNATURE).name == "RSA-PSS"


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("Kyber768", {"ML-KEM-768"}),
        ("MLKEM768", {"ML-KEM-768", "MLKEM768"}),
        ("x25519", {"x25519"}),
        ("P-384", {"secp384r1"}),
        ("SIKE", {"SIKE"}),
        ("pqfl/v1/mlkem1024-mldsa87", {"pqfl/v1/mlkem1024-mldsa87"}),
    ],
)
def test_who_takes_away_means_everything_that_the_name_may_mean(written: str, names: set[str]) -> None:
    """A KEM and a TLS group of one spelling are both meant, and a broken row is no error here."""
    assert set(meant_by(written)) == names


@pytest.mark.parametrize("name", ["", "ROT13", "pqfl/v1/mlkem1024-mldsa88", "PQFL/v1/mlkem1024-mldsa87"])
def test_what_nothing_is_called_cannot_be_taken_away(name: str) -> None:
    """A typing error would leave in force what was meant to go."""
    with pytest.raises(ConfigurationError) as caught:
        meant_by(name)
    assert caught.value.reason == "unknown_algorithm"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("X25519MLKEM768", {"ML-KEM-768"}),
        ("MLKEM1024", {"ML-KEM-1024"}),
        ("x25519", set()),
        ("TLS_CHACHA20_POLY1305_SHA256", {"ChaCha20-Poly1305"}),
        ("HQC-3+X25519", {"HQC-3"}),
        (
            "pqfl/v1/mlkem768x25519-chacha-mldsa65",
            {"ML-KEM-768+X25519", "ML-KEM-768", "ML-DSA-65", "ChaCha20-Poly1305", "Cobblestone-256", "AES-256-GCM"},
        ),
    ],
)
def test_a_hybrid_rests_on_its_post_quantum_half_and_a_suite_on_all_its_parts(name: str, parts: set[str]) -> None:
    """X25519 is nobody's foundation but its own; the body's cipher is every envelope's."""
    assert foundation(name) == {name} | parts


def test_every_row_and_suite_has_a_foundation() -> None:
    """What a row rests on is a row again; names are unique, so a name is enough."""
    names = [row.name for row in TABLE]
    assert len(set(names)) == len(names)
    for name in (*names, *CONTENT_SUITES):
        assert foundation(name) <= {*names, *CONTENT_SUITES}
