"""Receiving keys: stored, named and used exactly; damaged or foreign ones are refused by our own error."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.content.recipients import ReceivingKey, RecipientKey
from pqfl_transport.crypto.armour import MAX_PEM_BYTES
from pqfl_transport.errors import ConfigurationError, MessageError, PqflError

KEMS = {"ML-KEM-768+X25519": 32, "ML-KEM-1024+P-384": 32, "ML-KEM-1024": 64}
KEY = ReceivingKey.generate("ML-KEM-768+X25519", random=lambda count: b"k" * count)


@pytest.mark.parametrize("kem", KEMS)
def test_both_halves_survive_being_stored(kem: str) -> None:
    """PEM and back gives the same key, with the same name everywhere."""
    key = ReceivingKey.generate(kem)
    again = ReceivingKey.from_pem(key.to_pem())
    public = RecipientKey.from_pem(key.public.to_pem())
    assert again.fingerprint == public.fingerprint == key.fingerprint
    assert RecipientKey.from_bytes(key.public.to_bytes()) == key.public
    assert len({key.public, public}) == 1
    assert (again.kem, len(key.fingerprint)) == (kem, 32)


@pytest.mark.parametrize("kem", KEMS)
def test_a_key_is_wrapped_for_one_recipient_and_one_header(kem: str) -> None:
    """Only that key under that header opens it; ML-KEM's implicit rejection is a refusal here."""
    key, other = ReceivingKey.generate(kem), ReceivingKey.generate(kem)
    wrapped = key.public.wrap(b"c" * 32, b"header")
    assert key.unwrap(wrapped, b"header") == b"c" * 32
    for opener, header, data in (
        (other, b"header", wrapped),
        (key, b"another", wrapped),
        (key, b"header", wrapped[:-1] + bytes([wrapped[-1] ^ 1])),
        (key, b"header", bytes([wrapped[0] ^ 1]) + wrapped[1:]),
        (key, b"header", wrapped + b"x"),
        (key, b"header", b""),
    ):
        with pytest.raises(MessageError) as caught:
            opener.unwrap(data, header)
        assert caught.value.reason == "not_for_us"


def test_two_wraps_of_one_key_differ() -> None:
    """Encapsulation is randomised."""
    assert KEY.public.wrap(b"c" * 32, b"h") != KEY.public.wrap(b"c" * 32, b"h")


@pytest.mark.parametrize("kem", ["ML-KEM-512", "ML-KEM-768", "X25519", "kyber768-round3"])
def test_other_rows_make_no_receiving_key(kem: str) -> None:
    """Classical, experimental and unused rows are refused by name."""
    with pytest.raises(PqflError):
        ReceivingKey.generate(kem)


def test_halves_are_not_exchanged() -> None:
    """A private block is no public key, and the reverse."""
    with pytest.raises(ConfigurationError):
        RecipientKey.from_pem(KEY.to_pem())
    with pytest.raises(ConfigurationError):
        ReceivingKey.from_pem(KEY.public.to_pem())


def test_the_private_half_is_found_damaged() -> None:
    """A seed that no longer fits its fingerprint is refused and not used."""
    data = bytearray(base64.b64decode(b"".join(KEY.to_pem().splitlines()[1:-1])))
    data[data.index(b"k" * 32)] ^= 1
    pem = b"\n".join(
        [
            b"-----BEGIN PQFL RECEIVING PRIVATE KEY-----",
            base64.b64encode(data),
            b"-----END PQFL RECEIVING PRIVATE KEY-----",
        ]
    )
    with pytest.raises(ConfigurationError, match="damaged") as caught:
        ReceivingKey.from_pem(pem)
    assert caught.value.reason == "bad_key"


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PQFL RECEIVING PUBLIC KEY-----\n!!!!\n-----END PQFL RECEIVING PUBLIC KEY-----\n",
        b"-----BEGIN PQFL RECEIVING PUBLIC KEY-----\nAAAA\n",
        b"-----BEGIN PQFL RECEIVING PUBLIC KEY-----\n"
        + b"A" * MAX_PEM_BYTES
        + b"\n-----END PQFL RECEIVING PUBLIC KEY-----",
        KEY.public.to_pem() + KEY.public.to_pem(),
    ],
)
def test_what_is_not_one_block_is_refused(pem: bytes) -> None:
    """Another label, damaged base64, a cut block, a huge one, two of them."""
    with pytest.raises(ConfigurationError) as caught:
        RecipientKey.from_pem(pem)
    assert caught.value.reason == "bad_key"


@given(data=st.binary(max_size=1400))
@settings(max_examples=80)
def test_any_bytes_are_refused_by_our_own_error(data: bytes) -> None:
    """Noise in the roster or in a round document is a ConfigurationError."""
    with pytest.raises(ConfigurationError):
        RecipientKey.from_bytes(data)


@given(position=st.integers(0, len(KEY.public.to_bytes()) - 1), flip=st.integers(1, 255))
@settings(max_examples=80, deadline=None)
def test_a_changed_public_key_is_refused_or_another_key(position: int, flip: int) -> None:
    """No change leaves the fingerprint as it was."""
    data = bytearray(KEY.public.to_bytes())
    data[position] ^= flip
    try:
        assert RecipientKey.from_bytes(bytes(data)).fingerprint != KEY.fingerprint
    except PqflError:
        return
