"""Fields and addresses of resumable uploads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from pqfl_transport.errors import MessageError
from pqfl_transport.net.resumable import UploadAddress, UploadFields, boolean

_LABEL = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(st.integers(0, 10**18 - 1), _LABEL, st.binary(min_size=32, max_size=32))
def test_an_address_says_what_it_is_and_nothing_else(round_number: int, site: str, digest: bytes) -> None:
    """What an address spells is what it parses to."""
    address = UploadAddress(round_number, site, digest)
    assert UploadAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/v1/rounds/1/uploads/bank-a", "/v1/rounds/1/uploads/bank-a/" + "0" * 63,
        "/v1/rounds/1/uploads/bank-a/" + "A" * 64, "/v1/rounds/1/uploads/Bank/" + "0" * 64,
        "/v1/rounds/-1/uploads/bank-a/" + "0" * 64, "/v1/rounds/1/uploads/bank-a/" + "0" * 64 + "/",
        "/v1/rounds/1/uploads/../" + "0" * 64, "/v1/rounds/\u0661/uploads/bank-a/" + "0" * 64,
    ],
)  # fmt: skip
def test_what_is_no_address(path: str) -> None:
    """Everything else names no upload."""
    with pytest.raises(MessageError) as caught:
        UploadAddress.parse(path)
    assert caught.value.reason == "unknown_upload"


@given(st.text(max_size=200))
def test_any_path_is_an_address_or_an_error_of_ours(path: str) -> None:
    """No text makes the parser fail in another way, and what it takes it spells again."""
    try:
        address = UploadAddress.parse(path)
    except MessageError:
        return
    assert UploadAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    ("complete", "offset", "length", "fields"),
    [
        ("?1", "7", "10", UploadFields(complete=True, offset=7, length=10)),
        ("?0", "0", "", UploadFields(complete=False, offset=0)),
        (" ?1;why=this ", "12;x", "999999999999999", UploadFields(complete=True, offset=12, length=10**15 - 1)),
        ("1", "-1", "1.5", UploadFields()),
        ("true", "1e3", "9999999999999999", UploadFields()),
        ("?2", "\u0661", "+1", UploadFields()),
    ],
)
def test_fields_are_structured_items_and_others_are_ignored(
    complete: str, offset: str, length: str, fields: UploadFields
) -> None:
    """A value that is not of its form makes the field count as absent, as the convention says."""
    headers = CIMultiDict({"upload-complete": complete, "UPLOAD-OFFSET": offset, "Upload-Length": length})
    assert UploadFields.of(headers) == fields


def test_a_boolean_is_spelled_as_it_is_read() -> None:
    """``?1`` and ``?0``."""
    for value in (True, False):
        assert UploadFields.of({"Upload-Complete": boolean(value)}).complete is value
