"""PEM blocks: what goes in comes out, and nothing but blocks is taken."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.crypto import armour
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki.authority import create_root

LABELS = st.sampled_from(["PQFL RECEIVING PUBLIC KEY", "PQFL PRE-SHARED KEY", "X"])


@given(st.lists(st.tuples(LABELS, st.binary(max_size=300)), min_size=1, max_size=5))
@settings(deadline=None)
def test_blocks_come_back_in_order(parts: list[tuple[str, bytes]]) -> None:
    """Any number of blocks of any bytes, with white space around them."""
    pem = b"\n\n".join(armour.encode(label, data) for label, data in parts) + b" \r\n"
    found = armour.blocks(pem, max_bytes=len(pem), max_blocks=5)
    assert [(block.label, block.data) for block in found] == parts


def test_it_is_the_pem_that_others_read() -> None:
    """The library reads what is written here, and lines have 64 characters (RFC 7468 §3)."""
    certificate = create_root("fed", now=datetime.now(UTC)).certificate
    der = certificate.public_bytes(Encoding.DER)
    pem = armour.encode("CERTIFICATE", der)
    assert x509.load_pem_x509_certificate(pem) == certificate
    assert max(map(len, pem.splitlines())) == 64
    assert armour.decode(pem.replace(b"\n", b"\r\n"), "CERTIFICATE", max_bytes=1 << 20) == der


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"text",
        b"text\n" + armour.encode("X", b"a"),
        armour.encode("X", b"a") + b"text",
        armour.encode("X", b"a") * 3,
        armour.encode("X", b"a") + armour.encode("X", b"b")[:-3],
        armour.encode("X", b"abc").replace(b"YWJj", b"YWJ"),
        armour.encode("X", b"abc").replace(b"YWJj", b"Y-Jj"),
        armour.encode("X", b"abc").replace(b"END X", b"END Y"),
        b"-----BEGIN X-----" * 20_000,
        b"-----BEGIN X-----\n" * 20_000,
    ],
    ids=range(11),
)
def test_anything_else_is_refused(pem: bytes) -> None:
    """Text around blocks, too many, cut ones, damaged base64, another end, and rubbish that would be slow to search."""
    with pytest.raises(ConfigurationError) as caught:
        armour.blocks(pem, max_bytes=1 << 20, max_blocks=2)
    assert caught.value.reason == "bad_key"


def test_sizes_are_capped_before_anything_is_decoded() -> None:
    """A file above the cap is not looked into."""
    with pytest.raises(ConfigurationError, match="more than 10"):
        armour.blocks(b"x" * 11, max_bytes=10, max_blocks=1)


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_noise_is_our_own_error(data: bytes) -> None:
    """No bytes make it raise anything else."""
    with pytest.raises(ConfigurationError):
        armour.decode(data, "X", max_bytes=300)


def test_a_block_of_another_label_is_named() -> None:
    """Whoever gives the wrong file learns what it is."""
    with pytest.raises(ConfigurationError, match="'X' but 'Y'"):
        armour.decode(armour.encode("Y", b"a"), "X", max_bytes=100)
