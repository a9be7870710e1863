import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.requests import MAX_REQUEST_BYTES, make_request, open_request, open_twin_request
from pqfl_transport.pki.spiffe import Role, SpiffeId

NORTH = SpiffeId("cardio", Role.SITE, "north")
SOUTH = SpiffeId("cardio", Role.SITE, "south")
KEY = SigningKey.generate("ML-DSA-44")
REQUEST = make_request(NORTH, KEY)


def reason_of(der: bytes, party: SpiffeId = NORTH) -> str:
    with pytest.raises(MessageError) as caught:
        open_request(der, party, "request")
    return caught.value.reason


@pytest.mark.parametrize("algorithm", ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"])
def test_a_request_gives_its_key(algorithm: str) -> None:
    """A request of each level is verified by its own key, and fits the cap."""
    key = SigningKey.generate(algorithm)
    der = make_request(NORTH, key)
    assert open_request(der, NORTH, "request") == key.verifying_key
    assert len(der) < MAX_REQUEST_BYTES


def test_a_request_for_another_name_is_refused() -> None:
    """Somebody else's request shows possession to nobody."""
    assert reason_of(REQUEST, SOUTH) == "wrong_name"


def test_a_key_that_did_not_sign_is_refused() -> None:
    """Exchanging the key inside breaks the proof of possession."""
    other = SigningKey.generate("ML-DSA-44")
    forged = REQUEST.replace(KEY.verifying_key.spki, other.verifying_key.spki)
    assert forged != REQUEST
    assert reason_of(forged) == "bad_signature"


def test_a_request_asks_for_the_one_name_and_nothing_else() -> None:
    """No further name, no further extension and no other kind of key pass."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    uri = x509.UniformResourceIdentifier(str(NORTH))
    two = builder.add_extension(x509.SubjectAlternativeName([uri, x509.DNSName("hub")]), critical=False)
    more = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    more = more.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for odd in (builder, two, more):
        assert reason_of(odd.sign(KEY.pyca_key, None).public_bytes(Encoding.DER)) == "wrong_name"
    good = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    classical = good.sign(ed25519.Ed25519PrivateKey.generate(), None).public_bytes(Encoding.DER)
    assert reason_of(classical) == "bad_sigalg"


def test_a_large_request_is_refused_unread() -> None:
    """What is longer than any request is not parsed."""
    assert reason_of(REQUEST + bytes(MAX_REQUEST_BYTES)) == "too_large"


@given(st.binary(max_size=200) | st.integers(0, len(REQUEST) - 1).map(lambda at: REQUEST[:at]))
def test_bytes_that_are_no_request_are_malformed(data: bytes) -> None:
    """Nothing but a request is taken, and nothing but our own error comes out."""
    assert reason_of(data) == "malformed"


@given(st.integers(0, len(REQUEST) - 1), st.integers(1, 255))
def test_a_changed_byte_never_passes(at: int, difference: int) -> None:
    """A request in which any byte is another one is refused."""
    changed = bytearray(REQUEST)
    changed[at] ^= difference
    assert reason_of(bytes(changed)) in {"malformed", "bad_signature", "bad_sigalg", "wrong_name"}


def test_a_twins_request_gives_its_key_and_neither_kind_passes_for_the_other() -> None:
    """An ECDSA key shows its possession in the same way; it is never taken for a post-quantum one."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = make_request(NORTH, key)
    assert open_twin_request(der, NORTH, "request") == key.public_key()
    assert reason_of(der) == "bad_sigalg"
    changed = der[:-1] + bytes([der[-1] ^ 1])
    for data, party, reason in (
        (REQUEST, NORTH, "bad_sigalg"), (der, SOUTH, "wrong_name"), (changed, NORTH, "bad_signature"),
        (b"nothing", NORTH, "malformed"), (bytes(MAX_REQUEST_BYTES + 1), NORTH, "too_large"),
    ):  # fmt: skip
        with pytest.raises(MessageError) as caught:
            open_twin_request(data, party, "request")
        assert caught.value.reason == reason
