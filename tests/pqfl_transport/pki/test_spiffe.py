"""SPIFFE IDs: one spelling a party, and every other one is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.spiffe import Role, SpiffeId, require_label

LABELS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
GOOD = "spiffe://fed/site/hospital-north"


@given(federation=LABELS, role=st.sampled_from(Role), name=LABELS)
def test_round_trip(federation: str, role: Role, name: str) -> None:
    """Every ID that can be made parses back to itself, and its text is the plain concatenation."""
    made = SpiffeId(federation, role, name)
    assert str(made) == f"spiffe://{federation}/{role.value}/{name}"
    assert SpiffeId.parse(str(made)) == made


@given(text=st.text() | st.text().map(lambda text: GOOD + text) | st.text().map(lambda text: text + GOOD))
def test_whatever_is_accepted_is_spelled_like_its_text(text: str) -> None:
    """Any text is either refused as a bad name or is, byte for byte, the ID it parses to."""
    try:
        parsed = SpiffeId.parse(text)
    except CertificateError as error:
        assert error.reason == "bad_name"  # noqa: PT017 -- both ends are allowed, this reason only
    else:
        assert str(parsed) == text


@given(position=st.integers(0, len(GOOD)), character=st.characters())
def test_a_foreign_character_anywhere_is_refused(position: int, character: str) -> None:
    """One character more is refused unless the result is spelled like an ID of its own."""
    changed = GOOD[:position] + character + GOOD[position:]
    try:
        assert str(SpiffeId.parse(changed)) == changed
    except CertificateError:
        return
    assert character in "abcdefghijklmnopqrstuvwxyz0123456789-"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe://fed",
        "spiffe://fed/site",
        "spiffe://fed/site/",
        "spiffe:///site/a",
        "spiffe://fed//a",
        "spiffe://fed/site/a/",
        "spiffe://fed/site/a/b",
        "spiffe://fed/site/a\n",
        "spiffe://fed/site/a\0",
        " spiffe://fed/site/a",
        "spiffe://fed/site/a?x",
        "spiffe://fed/site/a#x",
        "spiffe://fed:443/site/a",
        "spiffe://user@fed/site/a",
        "spiffe://fed.example/site/a",
        "SPIFFE://fed/site/a",
        "spiffe://Fed/site/a",
        "spiffe://fed/Site/a",
        "spiffe://fed/site/A",
        "spiffe://fed/site/-a",
        "spiffe://-fed/site/a",
        "spiffe://fed/site/a%62",
        "spiffe://fed/site/a_b",
        "spiffe://fed/site/ä",
        "spiffe://fed/site/\N{CYRILLIC SMALL LETTER A}",
        "spiffe://fed/site/\N{ARABIC-INDIC DIGIT ONE}",
        "spiffe://fed/hospital/a",
        "https://fed/site/a",
        f"spiffe://{'f' * 64}/site/a",
        f"spiffe://fed/site/{'a' * 64}",
    ],
)
def test_everything_else_is_refused(uri: str) -> None:
    """No other case, escape, port, slash, alphabet, role or length names a party."""
    with pytest.raises(CertificateError) as caught:
        SpiffeId.parse(uri)
    assert caught.value.reason == "bad_name"


def test_the_longest_labels_are_accepted() -> None:
    """63 characters are the limit, and they are allowed."""
    uri = f"spiffe://{'f' * 63}/operator/{'9' * 63}"
    assert str(SpiffeId.parse(uri)) == uri


@pytest.mark.parametrize(
    ("federation", "name", "what"), [("Fed", "a", "federation 'Fed'"), ("fed", "a/b", "name 'a/b'")]
)
def test_an_id_cannot_be_made_outside_the_grammar(federation: str, name: str, what: str) -> None:
    """Making an ID from parts is as strict as parsing one, and names the part."""
    with pytest.raises(CertificateError, match=what):
        SpiffeId(federation, Role.SITE, name)


def test_a_long_bad_name_is_not_repeated_in_full() -> None:
    """A message stays short whatever a stranger's certificate says."""
    for make in (lambda: SpiffeId.parse("x" * 100_000), lambda: require_label("name", "X" * 100_000)):
        with pytest.raises(CertificateError) as caught:
            make()
        assert len(str(caught.value)) < 500
