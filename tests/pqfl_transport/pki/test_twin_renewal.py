"""The messages of a twin's renewal: what binds them to a connection, a party, a twin and a key."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki.authority import create_issuing, create_root, issue_tls
from pqfl_transport.pki.enrolment import MAX_MESSAGE_BYTES
from pqfl_transport.pki.profiles import PROFILES
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.twin_renewal import (
    TwinGrant,
    make_twin_renewal,
    open_twin_answer,
    open_twin_renewal,
    twin_answer,
)
from pqfl_transport.pki.twins import create_classical, generate_key, issue_twin
from pqfl_transport.policy import SecurityLevel

NOW = datetime.now(UTC).replace(microsecond=0)
NORTH, SOUTH = SpiffeId("fed", Role.SITE, "north"), SpiffeId("fed", Role.SITE, "south")
BINDING = b"b" * 32
ISSUING = create_issuing(create_root("fed", now=NOW), SecurityLevel.STANDARD, now=NOW)
CLASSICAL = create_classical("fed", now=NOW)
KEY, NEW_KEY = SigningKey.generate("ML-DSA-44"), generate_key()


def tls(party: SpiffeId, key: SigningKey = KEY) -> x509.Certificate:
    return issue_tls(ISSUING, PROFILES["site"], party, key.verifying_key, now=NOW, seconds=3600)


def twin(party: SpiffeId) -> x509.Certificate:
    return issue_twin(CLASSICAL, PROFILES["site"], party, generate_key().public_key(), now=NOW, seconds=3600)


TLS, TWIN = tls(NORTH), twin(NORTH)
REQUEST = make_twin_renewal(NORTH, BINDING, TLS, KEY, TWIN, NEW_KEY)


def refused(data: bytes, binding: bytes = BINDING) -> str:
    with pytest.raises((MessageError, CertificateError)) as caught:
        open_twin_renewal(data, binding)
    return caught.value.reason


def test_a_request_brings_its_certificates_and_the_new_key() -> None:
    """As they went in."""
    found = open_twin_renewal(REQUEST, BINDING)
    assert (found.party, found.tls, found.twin, found.new_key) == (NORTH, TLS, TWIN, NEW_KEY.public_key())


def test_what_is_bound_cannot_be_exchanged() -> None:
    """Another connection, another's TLS key or certificate, another party's or another twin: each has its reason."""
    other = SigningKey.generate("ML-DSA-44")
    assert refused(REQUEST, b"B" * 32) == "wrong_connection"
    assert refused(make_twin_renewal(NORTH, BINDING, TLS, other, TWIN, NEW_KEY)) == "unknown_signer"
    assert refused(make_twin_renewal(SOUTH, BINDING, TLS, KEY, TWIN, NEW_KEY)) == "wrong_name"
    assert refused(make_twin_renewal(NORTH, BINDING, TLS, KEY, twin(SOUTH), NEW_KEY)) == "wrong_name"
    exchanged = base64.b64encode(twin(NORTH).public_bytes(Encoding.DER)).decode()
    assert refused(json.dumps(json.loads(REQUEST) | {"twin_certificate": exchanged}).encode()) == "wrong_certificate"


def test_a_classical_certificate_signs_nothing() -> None:
    """A twin in the place of the TLS certificate: who forges ECDSA gets no twin by it."""
    message = json.loads(REQUEST)
    assert refused(json.dumps(message | {"tls_certificate": message["twin_certificate"]}).encode()) == "bad_sigalg"


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message | {"more": ""},
        lambda message: message | {"pqfl": "renewal-request/v1"},
        lambda message: message | {"request": "\ud800"},
        lambda message: message | {"tls_certificate": "!"},
        lambda _message: {},
    ],
)
def test_other_messages_are_malformed(change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    """Exactly these fields, of this kind."""
    assert refused(json.dumps(change(json.loads(REQUEST))).encode()) == "malformed"


def test_sizes_are_capped() -> None:
    """Nobody makes the other end parse more."""
    assert refused(b" " * (MAX_MESSAGE_BYTES + 1)) == "too_large"


@given(st.binary(max_size=200))
def test_nonsense_is_refused(data: bytes) -> None:
    """In both directions, with an error of ours."""
    for function in (lambda: open_twin_renewal(data, BINDING), lambda: open_twin_answer(data)):
        with pytest.raises(MessageError):
            function()  # type: ignore[no-untyped-call]


def test_an_answer_comes_back() -> None:
    """One twin, and the issuers in their order; anything less is malformed."""
    grant = TwinGrant(TWIN, (CLASSICAL.certificate, create_classical("fed", now=NOW).certificate))
    assert open_twin_answer(twin_answer(grant)) == grant
    fields = json.loads(twin_answer(grant))
    for change in ({"twin": ""}, {"twin": fields["anchors"]}, {"anchors": "none"}):
        with pytest.raises(MessageError) as caught:
            open_twin_answer(json.dumps(fields | change).encode())
        assert caught.value.reason == "malformed"
