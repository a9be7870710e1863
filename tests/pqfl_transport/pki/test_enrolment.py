import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import CertificateError, MessageError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.documents import DocumentKind, sign_document
from pqfl_transport.pki.enrolment import (
    MAX_MESSAGE_BYTES,
    Grant,
    Holder,
    State,
    grant_payload,
    join_answer,
    join_payload,
    join_request,
    open_grant,
    open_join,
    open_join_answer,
    open_renewal,
    renewal_request,
    token_of,
)
from pqfl_transport.pki.requests import make_request
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.tokens import JoinToken, service_id
from pqfl_transport.policy import SecurityLevel
from tests.support.pki import Federation, make_federation

NORTH = SpiffeId("fed", Role.SITE, "north")
SOUTH = SpiffeId("fed", Role.SITE, "south")
BINDING, OTHER_BINDING = b"b" * 32, b"B" * 32
TLS, SIGNING = SigningKey.generate("ML-DSA-44"), SigningKey.generate("ML-DSA-44")


def make_token(party: SpiffeId = NORTH) -> JoinToken:
    return JoinToken(SecurityLevel.STANDARD, bytes(32), service_id("fed"), party, 1_000, b"s" * 32)


TOKEN = make_token()
PAYLOAD = join_payload(NORTH, TLS, SIGNING, b"receiving", made=500)
REQUEST = join_request(TOKEN, PAYLOAD, BINDING)


def refused(data: bytes, token: JoinToken = TOKEN, binding: bytes = BINDING) -> str:
    with pytest.raises(MessageError) as caught:
        open_join(data, token.keys, token.party, binding, now=500)
    return caught.value.reason


def signed_by_token(fields: dict[str, str], token: JoinToken = TOKEN) -> bytes:
    return join_request(token, json.dumps(fields).encode(), BINDING)


def test_a_joining_request_brings_its_keys() -> None:
    """TLS, signing and receiving key come out of a request as they went in, and the payload byte by byte."""
    payload, new = open_join(REQUEST, TOKEN.keys, NORTH, BINDING, now=500)
    assert payload == PAYLOAD
    assert (new.party, new.tls, new.signing) == (NORTH, TLS.verifying_key, SIGNING.verifying_key)
    assert new.receiving == b"receiving"
    assert token_of(REQUEST) == TOKEN.keys.token_id


def test_the_secret_is_in_no_request() -> None:
    """What travels holds neither the token's secret nor the keys made of it."""
    for secret in (TOKEN.secret, TOKEN.keys.request_key, TOKEN.keys.answer_key):
        assert secret not in REQUEST
        assert secret.hex().encode() not in REQUEST


def test_a_request_is_of_one_connection_and_one_token() -> None:
    """Another connection's exporter and another token's keys each break the HMAC."""
    assert refused(REQUEST, binding=OTHER_BINDING) == "bad_mac"
    assert refused(REQUEST, make_token(SOUTH)) == "bad_mac"


def test_a_token_is_for_one_name() -> None:
    """Whoever holds north's token cannot join as south with it, whatever south has signed."""
    south = join_payload(SOUTH, TLS, SIGNING, b"receiving", made=500)
    assert refused(join_request(TOKEN, south, BINDING)) == "wrong_name"


def test_a_clock_that_is_ahead_is_told_so() -> None:
    """Five minutes do no harm; beyond that the sentence says by how much."""
    open_join(REQUEST, TOKEN.keys, NORTH, BINDING, now=500 - 300)
    with pytest.raises(MessageError, match=r"301 s ahead") as caught:
        open_join(REQUEST, TOKEN.keys, NORTH, BINDING, now=500 - 301)
    assert caught.value.reason == "from_the_future"


def test_possession_of_each_key_is_shown() -> None:
    """A request for somebody else's key, and a receiving key that the signing key did not sign, are refused."""
    fields = json.loads(PAYLOAD)
    theirs = json.loads(join_payload(SOUTH, TLS, SIGNING, b"receiving", made=500))
    others = json.loads(join_payload(NORTH, TLS, SigningKey.generate("ML-DSA-44"), b"receiving", made=500))
    assert refused(signed_by_token(fields | {"tls": theirs["tls"]})) == "wrong_name"
    assert refused(signed_by_token(fields | {"signing": theirs["signing"]})) == "wrong_name"
    assert refused(signed_by_token(fields | {"receiving": others["receiving"]})) == "unknown_signer"
    assert refused(signed_by_token(fields | {"receiving": theirs["receiving"]})) == "wrong_sender"


@given(st.integers(0, len(REQUEST) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_request_never_passes(at: int, difference: int) -> None:
    """Changing any byte is noticed; only the name of the token says nothing by itself."""
    changed = bytearray(REQUEST)
    changed[at] ^= difference
    try:
        same, _ = open_join(bytes(changed), TOKEN.keys, NORTH, BINDING, now=500)
    except MessageError:
        return
    assert same == PAYLOAD


@given(
    st.binary(max_size=300)
    | st.dictionaries(st.text(max_size=9), st.text(max_size=9)).map(lambda d: json.dumps(d).encode())
)
def test_anything_else_is_no_message(data: bytes) -> None:
    """Bytes and JSON of any other form are refused by every parser with our own error."""
    for parse in (
        token_of, open_grant, lambda data: open_renewal(data, BINDING),
        lambda data: open_join(data, TOKEN.keys, NORTH, BINDING, now=500),
        lambda data: open_join_answer(data, TOKEN.keys, PAYLOAD, BINDING),
    ):  # fmt: skip
        with pytest.raises(MessageError) as caught:
            parse(data)
        assert caught.value.reason == "malformed"


def test_large_messages_are_refused_unread() -> None:
    """What is longer than any message is not parsed."""
    assert refused(b" " * MAX_MESSAGE_BYTES + REQUEST) == "too_large"
    with pytest.raises(MessageError, match="more than"):
        open_grant(b" " * (MAX_MESSAGE_BYTES + 1))


def test_an_answer_is_bound_to_request_connection_and_token() -> None:
    """An answer counts for the request it answers, on its connection, from who has the token's key."""
    answer = join_answer(TOKEN.keys, PAYLOAD, grant_payload(State.PENDING), BINDING)
    assert open_join_answer(answer, TOKEN.keys, PAYLOAD, BINDING) == (State.PENDING, None)
    for keys, request, binding in (
        (make_token(SOUTH).keys, PAYLOAD, BINDING), (TOKEN.keys, PAYLOAD + b" ", BINDING),
        (TOKEN.keys, PAYLOAD, OTHER_BINDING),
    ):  # fmt: skip
        with pytest.raises(MessageError) as caught:
            open_join_answer(answer, keys, request, binding)
        assert caught.value.reason == "bad_mac"
    swapped = answer.replace(b"pending", b"issued")
    with pytest.raises(MessageError):
        open_join_answer(swapped, TOKEN.keys, PAYLOAD, BINDING)


def test_a_request_is_no_answer() -> None:
    """The two HMACs have keys of their own, so neither message passes for the other."""
    message = {"pqfl": "join-answer/v1", "payload": PAYLOAD.decode(), "mac": json.loads(REQUEST)["mac"]}
    with pytest.raises(MessageError):
        open_join_answer(json.dumps(message).encode(), TOKEN.keys, PAYLOAD, BINDING)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("fed"), sites=("north", "south"), level="standard")


def holder(
    folder: Path, name: str, new_key: SigningKey | None = None, next_key: SigningKey | None = None
) -> Holder:  # fmt: skip
    key = keystore.load_signing_key(folder / f"{name}.key")
    return Holder(certificate(folder / f"{name}.pem"), key, new_key or key, next_key)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_grant_comes_back(federation: Federation) -> None:
    """Certificates, authorities and gateway come out of an answer as they went in."""
    north = federation.site("north")
    grant = Grant(
        certificate(north / "tls.pem"), certificate(north / "signing.pem"), federation.ca_pem.read_bytes(), "hub:8443",
        federation.gateway_uri,
    )  # fmt: skip
    assert open_grant(grant_payload(State.ISSUED, grant)) == (State.ISSUED, grant)
    with_next = replace(grant, next_signing=certificate(federation.site("south") / "signing.pem"))
    assert open_grant(grant_payload(State.ISSUED, with_next)) == (State.ISSUED, with_next)
    # Whoever knows no next keys reads every answer but this one.
    assert "next" not in json.loads(grant_payload(State.ISSUED, grant))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ca", "none"),
        ("tls", ""),
        ("state", "perhaps"),
        ("gateway_id", "hub"),
        ("gateway", "x" * 301),
        ("next", ""),
        ("next", 1),
    ],
)
def test_a_grant_with_a_bad_part_is_malformed(federation: Federation, name: str, value: str) -> None:
    """Each part of an answer has to be what it is called."""
    north = federation.site("north")
    good = json.loads(
        grant_payload(State.ISSUED, Grant(certificate(north / "tls.pem"), None, federation.ca_pem.read_bytes()))
    )
    with pytest.raises(MessageError) as caught:
        open_grant(json.dumps(good | {name: value}).encode())
    assert caught.value.reason == "malformed"


def test_a_renewal_is_signed_by_the_present_keys(federation: Federation) -> None:
    """A renewal of both certificates gives both, and the new keys that take their places."""
    north, new = federation.site("north"), SigningKey.generate("ML-DSA-44")
    data = renewal_request(NORTH, BINDING, holder(north, "tls", new), holder(north, "signing"))
    present, keys = open_renewal(data, BINDING)
    assert present.tls == certificate(north / "tls.pem")
    assert present.signing == certificate(north / "signing.pem")
    assert (keys.party, keys.tls) == (NORTH, new.verifying_key)
    assert keys.signing == keystore.load_signing_key(north / "signing.key").verifying_key
    assert open_renewal(renewal_request(NORTH, BINDING, holder(north, "tls")), BINDING)[1].signing is None


def test_the_next_signing_key_is_asked_for_by_the_present_one(federation: Federation) -> None:
    """Beside the present one or alone, and each shows that it is held by signing its own request."""
    north, following = federation.site("north"), SigningKey.generate("ML-DSA-44")
    both = holder(north, "signing", next_key=following)
    for asked, signing in ((both, both.key.verifying_key), (replace(both, new_key=None), None)):
        _, keys = open_renewal(renewal_request(NORTH, BINDING, holder(north, "tls"), asked), BINDING)
        assert (keys.signing, keys.next_signing) == (signing, following.verifying_key)


def changed(message: dict[str, Any], name: str, key: SigningKey, **changes: str) -> bytes:
    """A renewal with one of its signed parts changed, and signed anew by the key that may."""
    kind = DocumentKind.RENEWAL if name == "request" else DocumentKind.RENEWAL_SIGNING
    payload = json.loads(json.loads(message[name])["payload"]) | changes
    return json.dumps(message | {name: sign_document(kind, payload, key).decode()}).encode()


def test_a_next_key_that_nobody_showed_to_hold_is_refused(federation: Federation) -> None:
    """Another party's request, a request that its key has not signed, none at all, and one for a TLS key."""
    north, following = federation.site("north"), SigningKey.generate("ML-DSA-44")
    tls, signing = holder(north, "tls"), holder(north, "signing", next_key=following)
    message = json.loads(renewal_request(NORTH, BINDING, tls, signing))
    good = base64.b64decode(json.loads(json.loads(message["signing_request"])["payload"])["next"])
    theirs = base64.b64encode(make_request(SOUTH, following)).decode()
    broken = base64.b64encode(good[:-1] + bytes([good[-1] ^ 1])).decode()
    for data, reason in (
        (changed(message, "signing_request", signing.key, next=theirs), "wrong_name"),
        (changed(message, "signing_request", signing.key, next=broken), "bad_signature"),
        (changed(message, "signing_request", signing.key, next=""), "malformed"),
        (changed(message, "signing_request", signing.key, more=""), "malformed"),
        (changed(message, "request", tls.key, next=base64.b64encode(good).decode()), "malformed"),
        (renewal_request(NORTH, BINDING, tls, replace(signing, new_key=None, next_key=None)), "malformed"),
        (renewal_request(NORTH, BINDING, tls, replace(signing, key=following)), "unknown_signer"),
    ):
        with pytest.raises(MessageError) as caught:
            open_renewal(data, BINDING)
        assert caught.value.reason == reason


def test_a_recorded_renewal_is_of_no_use(federation: Federation) -> None:
    """On another connection the same bytes are refused."""
    data = renewal_request(NORTH, BINDING, holder(federation.site("north"), "tls"))
    with pytest.raises(MessageError) as caught:
        open_renewal(data, OTHER_BINDING)
    assert caught.value.reason == "wrong_connection"


def test_nobody_renews_anothers_certificate(federation: Federation) -> None:
    """South's key under north's certificate, and north's certificate beside south's, are refused."""
    north, south = federation.site("north"), federation.site("south")
    key = keystore.load_signing_key(south / "tls.key")
    stolen = Holder(certificate(north / "tls.pem"), key, key)
    for data, reasons in (
        (renewal_request(NORTH, BINDING, stolen), {"unknown_signer"}),
        (renewal_request(SOUTH, BINDING, holder(north, "tls")), {"wrong_name"}),
        (renewal_request(NORTH, BINDING, holder(north, "tls"), holder(south, "signing")), {"wrong_name"}),
    ):
        with pytest.raises(MessageError) as caught:
            open_renewal(data, BINDING)
        assert caught.value.reason in reasons


def test_a_tls_key_signs_no_renewal_of_a_signing_certificate(federation: Federation) -> None:
    """The two halves of a renewal have contexts of their own: neither passes for the other."""
    north = federation.site("north")
    message = json.loads(renewal_request(NORTH, BINDING, holder(north, "tls")))
    message |= {"signing_certificate": message["tls_certificate"], "signing_request": message["request"]}
    with pytest.raises(MessageError) as caught:
        open_renewal(json.dumps(message).encode(), BINDING)
    assert caught.value.reason == "malformed"
    with pytest.raises((MessageError, CertificateError)):
        open_renewal(json.dumps(message | {"signing_request": ""}).encode(), BINDING)
