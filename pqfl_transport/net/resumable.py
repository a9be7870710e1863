"""Resumable uploads over HTTP: the fields and addresses that sites, gateways and aggregators agree on.

The convention is draft-ietf-httpbis-resumable-upload-12 (interop version 8). An update is created with its usual PUT
and ``Upload-Complete``; what arrived is asked for with HEAD at the upload's own address, and the rest follows there
with PATCH. The address names the site and the digest of the envelope's prologue: a gateway can hold it to the
connection's certificate without remembering anything, and a site that was restarted knows it from the stored envelope.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pqfl_transport.errors import MessageError

INTEROP_VERSION = "8"
PARTIAL_TYPE = "application/partial-upload"
UPLOAD_COMPLETE = "Upload-Complete"
UPLOAD_OFFSET = "Upload-Offset"
UPLOAD_LENGTH = "Upload-Length"
UPLOAD_LIMIT = "Upload-Limit"
DRAFT_VERSION = "Upload-Draft-Interop-Version"
SUPPORTED_STATUS = "104 Upload Resumption Supported"
TRUE, FALSE = "?1", "?0"

_ADDRESS = re.compile(r"/v1/rounds/([0-9]{1,18})/uploads/([a-z0-9][a-z0-9-]{0,62})/([0-9a-f]{64})", re.ASCII)
# Items of RFC 9651: a Boolean, and an Integer of at most fifteen digits; parameters mean nothing here.
_BOOLEAN = re.compile(r"\?([01])(?:;.*)?", re.ASCII)
_INTEGER = re.compile(r"([0-9]{1,15})(?:;.*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class UploadAddress:
    """Where an upload is continued: round, name of the site, SHA-256 of the envelope's prologue."""

    round_number: int
    site: str
    prologue_digest: bytes

    @classmethod
    def parse(cls, path: str) -> Self:
        """Parse a path. Raises ``MessageError`` (``unknown_upload``) for one that cannot name an upload."""
        match = _ADDRESS.fullmatch(path)
        if match is None:
            raise MessageError("an upload is at /v1/rounds/ROUND/uploads/SITE/DIGEST", reason="unknown_upload")
        return cls(int(match[1]), match[2], bytes.fromhex(match[3]))

    def __str__(self) -> str:
        return f"/v1/rounds/{self.round_number}/uploads/{self.site}/{self.prologue_digest.hex()}"


@dataclass(frozen=True, slots=True)
class UploadFields:
    """What a request says of the upload it belongs to; a field that is not of its form counts as absent (§4.1)."""

    complete: bool | None = None
    """Whether its body is the upload's last part; None in a conventional request."""
    offset: int | None = None
    length: int | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self:
        """Read the fields of a request or an answer; ``headers`` looks names up in any case."""
        flag = _BOOLEAN.fullmatch(headers.get(UPLOAD_COMPLETE, "").strip())
        return cls(
            complete=None if flag is None else flag[1] == "1",
            offset=_integer(headers.get(UPLOAD_OFFSET, "")),
            length=_integer(headers.get(UPLOAD_LENGTH, "")),
        )


def boolean(value: bool) -> str:
    """Spell a Boolean as RFC 9651 does."""
    return TRUE if value else FALSE


def _integer(text: str) -> int | None:
    match = _INTEGER.fullmatch(text.strip())
    return None if match is None else int(match[1])
