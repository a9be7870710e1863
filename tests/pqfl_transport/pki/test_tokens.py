import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.crypto.contexts import length_prefixed
from pqfl_transport.errors import ConfigurationError, MessageError
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.pki.tokens import MAX_TOKEN_CHARACTERS, PREFIX, JoinToken, service_id
from pqfl_transport.policy import SecurityLevel

NORTH = SpiffeId("cardio", Role.SITE, "north")
LABELS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


def make(party: SpiffeId = NORTH, *, expires_at: int = 2_000_000_000, root: bytes = b"r" * 32) -> JoinToken:
    return JoinToken(SecurityLevel.HIGH, root, service_id(party.federation), party, expires_at, b"s" * 32)


@given(
    st.sampled_from(SecurityLevel), st.binary(min_size=32, max_size=32), LABELS, LABELS,
    st.integers(1, 2**48 - 1), st.binary(min_size=32, max_size=32),
)  # fmt: skip
def test_every_token_comes_back_from_its_text(
    level: SecurityLevel, root: bytes, federation: str, name: str, expires_at: int, secret: bytes
) -> None:
    """Parsing the text of a token gives that token, and it is one short line of ASCII."""
    party = SpiffeId(federation, Role.SITE, name)
    token = JoinToken(level, root, service_id(federation), party, expires_at, secret)
    text = token.to_text()
    assert JoinToken.parse(f" {text}\n") == token
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert len(text) <= MAX_TOKEN_CHARACTERS


@given(st.data())
def test_a_character_copied_wrongly_is_noticed(data: st.DataObject) -> None:
    """One other character, one missing or one more anywhere is refused, and the message never quotes the token."""
    text = make().to_text()
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("abcXYZ019-_.=+/ é"))
    changed = data.draw(
        st.sampled_from([text[:at] + letter + text[at + 1 :], text[:at] + text[at + 1 :], text + letter])
    )
    if changed.strip() == text:
        return
    with pytest.raises(ConfigurationError) as caught:
        JoinToken.parse(changed)
    assert caught.value.reason == "bad_token"
    assert text[40:60] not in str(caught.value)


@given(
    st.text(max_size=300) | st.binary(max_size=300).map(lambda data: PREFIX + base64.urlsafe_b64encode(data).decode())
)
def test_anything_else_is_no_token(text: str) -> None:
    """Whatever is pasted instead of a token is refused in one way."""
    with pytest.raises(ConfigurationError, match="no joining token"):
        JoinToken.parse(text)


@pytest.mark.parametrize(
    "items",
    [
        (b"high", b"r" * 31, b"spiffe://f/gateway/enrolment", b"spiffe://f/site/a", bytes(7) + b"\1", b"s" * 32),
        (b"high", b"r" * 32, b"spiffe://f/gateway/enrolment", b"spiffe://g/site/a", bytes(7) + b"\1", b"s" * 32),
        (b"low", b"r" * 32, b"spiffe://f/gateway/enrolment", b"spiffe://f/site/a", bytes(7) + b"\1", b"s" * 32),
        (b"high", b"r" * 32, b"spiffe://f/gateway/enrolment", b"spiffe://f/site/A", bytes(7) + b"\1", b"s" * 32),
        (b"high", b"r" * 32, b"spiffe://f/gateway/enrolment", b"spiffe://f/site/a", bytes(8), b"s" * 32),
        (b"high", b"r" * 32, b"spiffe://f/gateway/enrolment", b"spiffe://f/site/a", b"\1", b"s" * 32),
        (b"high", b"r" * 32, b"spiffe://f/gateway/enrolment", b"spiffe://f/site/a", bytes(7) + b"\1"),
        (b"high", b"r" * 32, b"spiffe://f/gateway/enrolment", b"spiffe://f/site/a", bytes(7) + b"\1", b"s" * 32, b""),
    ],
)  # fmt: skip
def test_a_token_with_a_good_checksum_and_a_bad_part_is_refused(items: tuple[bytes, ...]) -> None:
    """Fingerprint, service, party, end and secret each have one form, and all of them are there once."""
    packed = length_prefixed(*items)
    body = base64.urlsafe_b64encode(packed + hashlib.sha256(packed).digest()[:4]).decode().rstrip("=")
    with pytest.raises(ConfigurationError) as caught:
        JoinToken.parse(PREFIX + body)
    assert caught.value.reason == "bad_token"


def test_every_part_of_a_token_is_in_its_keys() -> None:
    """A token whose name, end or root was exchanged has other keys, although its secret is the same."""
    tokens = [
        make(), make(SpiffeId("cardio", Role.SITE, "south")), make(expires_at=2_000_000_001), make(root=b"R" * 32),
    ]  # fmt: skip
    assert len({token.keys.token_id for token in tokens}) == 4
    assert len({token.keys.request_key for token in tokens}) == 4
    assert len({token.keys.answer_key for token in tokens}) == 4
    assert len({make().keys.request_key, make().keys.answer_key, make().secret}) == 3


def test_a_token_is_over_at_its_end() -> None:
    """The last second counts, the one after it does not."""
    make(expires_at=100).require_current(100)
    with pytest.raises(MessageError) as caught:
        make(expires_at=100).require_current(100.1)
    assert caught.value.reason == "token_expired"


def test_no_secret_is_shown() -> None:
    """Neither a token nor its keys say their secrets where they are printed."""
    token = make()
    shown = repr(token) + repr(token.keys)
    assert "ssss" not in shown
    assert "request_key" not in shown
