"""The profile for the aggregator: an update is checked by its prologue before the backend sees a byte of it.

The gateway runs ENVELOPE.md §5 up to the signature and holds no key for more: sizes, suite, sender (who has to be the
TLS identity), round and challenge from the round document that the aggregator signed, expiry, signature. Weights that
are not sealed do not pass, whatever they are called. An upload that is resumed was admitted by its prologue before; who
goes on with it has to be the site that its address names.
"""

import re
import secrets
import time
from asyncio import to_thread
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

import aiohttp
from aiohttp import web

from gateway.http.profiles import Admitted, Session, Watch, invite_body
from gateway.http.rules import Rule, matches, require_allowed
from pqfl_transport.aggregation.round_document import (
    MAX_DOCUMENT_BYTES,
    RoundDocument,
    RoundState,
    open_round_document,
)
from pqfl_transport.content.envelope import (
    Prologue,
    PrologueReader,
    envelope_bytes,
    most_envelope_bytes,
    verify_prologue,
)
from pqfl_transport.content.header import Header
from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.errors import CertificateError, MessageError, PqflError, RoundError, TransportError
from pqfl_transport.net.resumable import PARTIAL_TYPE, UploadAddress, UploadFields
from pqfl_transport.pki.revocation import Revocations
from pqfl_transport.pki.roster import Roster
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.policy import Policy
from pqfl_transport.problems import status_of

ENVELOPE_TYPE = "application/vnd.pqfl.envelope"
_RULES = (
    ("GET", "/v1/rounds/current"),
    ("GET", "/v1/models/*"),
    ("GET", "/v1/rounds/*/events"),
    ("GET", "/v1/status"),
    ("HEAD", "/v1/status"),
    ("PUT", "/v1/rounds/*/updates/*"),
    ("OPTIONS", "/v1/rounds/*/updates/*"),
    ("GET", "/v1/rounds/*/uploads/*/*"),
    ("HEAD", "/v1/rounds/*/uploads/*/*"),
    ("PATCH", "/v1/rounds/*/uploads/*/*"),
    ("DELETE", "/v1/rounds/*/uploads/*/*"),
)
_UPLOAD = "/v1/rounds/*/uploads/**"
_UPDATE = re.compile(r"/v1/rounds/([0-9]{1,18})/updates/([0-9a-f]{32})", re.ASCII)
_FRESH_SECONDS = 2.0
# Names and shapes of tensors and the number of samples travel beside the weights.
_METADATA_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Known:
    document: RoundDocument
    until: float


class AggregatorGuard:
    """Sees to it that updates are sealed, signed by who sends them, and for the round that is open."""

    def __init__(
        self,
        roster: Roster,
        policy: Callable[[], Policy],
        rules: Sequence[Rule] = (),
        clock: Callable[[], float] = time.time,
        revocations: Revocations | None = None,
    ) -> None:
        """``policy`` gives the one of the moment: an update in flight is cut where its suite is withdrawn.

        ``revocations`` are asked about the aggregator that signs rounds, and about the former keys of sites; their
        connections are the listener's to look after.
        """
        self._roster, self._policy, self._clock, self._revocations = roster, policy, clock, revocations
        self._rules = tuple(rules) or _RULES
        self._known: _Known | None = None

    async def admit(self, request: web.BaseRequest, path: str, session: Session) -> Admitted:
        """Let a request of the aggregator's interface pass; an update only after its prologue."""
        require_allowed(request.method, path, self._rules)
        if matches(_UPLOAD, path):
            return await self._admit_upload(request, UploadAddress.parse(path), session)
        if request.method not in {"PUT", "POST", "PATCH"}:
            return Admitted()
        match = _UPDATE.fullmatch(path)
        if match is None:
            raise MessageError("an update goes to /v1/rounds/ROUND/updates/ENVELOPE-ID", reason="malformed")
        if request.content_type != ENVELOPE_TYPE:
            raise MessageError(
                f"weights pass sealed only, as {ENVELOPE_TYPE} and not as {request.content_type!r}: seal them with"
                " pqfl_transport.client or `pqfl seal`",
                reason="wrong_media_type",
            )
        invite_body(request)
        prologue, rest = await _read_prologue(request)
        key = self._sender_key(prologue.header, session)
        self._check_address(prologue, int(match[1]), bytes.fromhex(match[2]), request)
        self._require_open(prologue.header, await self._document(prologue.header.round, session))
        await to_thread(verify_prologue, prologue, sender_key=key, policy=self._policy())
        watch = self._watch(prologue.header.suite, envelope_bytes(prologue) - len(prologue.raw))
        watch(rest)
        return Admitted(prefix=prologue.raw + rest, watch=watch)

    def status_of(self, error: PqflError) -> int:
        """Return the status of `pqfl_transport.problems`."""
        return status_of(error)

    def _sender_key(self, header: Header, session: Session) -> VerifyingKey:
        if header.sender != session.peer.name:
            raise MessageError(
                f"the update of {header.sender} came over the connection of {session.peer.name}", reason="wrong_sender"
            )
        _require_post_quantum(session)
        self._policy().require_content_suite(header.suite)
        sender, now = self._roster.party(header.sender), self._clock()
        if self._revocations is not None:
            sender = self._revocations.with_good_keys(sender, datetime.fromtimestamp(now, UTC))
        return sender.key_for(header.sender_fingerprint, now)

    async def _admit_upload(self, request: web.BaseRequest, address: UploadAddress, session: Session) -> Admitted:
        owner = str(SpiffeId(self._roster.federation, Role.SITE, address.site))
        if owner != session.peer.name:
            raise MessageError(f"the upload of {owner} is not {session.peer.name}'s", reason="wrong_sender")
        _require_post_quantum(session)
        self._roster.party(owner)
        if request.method != "PATCH":
            return Admitted()
        if request.content_type != PARTIAL_TYPE:
            raise MessageError(
                f"an upload is gone on with as {PARTIAL_TYPE}, not {request.content_type!r}", reason="wrong_media_type"
            )
        document = await self._document(address.round_number, session)
        _require_collecting(document, address.round_number)
        self._policy().require_content_suite(document.suite)
        offset, most_bytes = UploadFields.of(request.headers).offset, most_envelope_bytes(_most_plaintext(document))
        if offset is None:
            raise MessageError("an append says Upload-Offset", reason="malformed")
        if offset + (request.content_length or 0) > most_bytes:
            raise MessageError(f"an update has at most {most_bytes} bytes", reason="too_large")
        return Admitted(watch=self._watch(document.suite, most_bytes - offset))

    def _watch(self, suite: str, left_bytes: int) -> Watch:
        """Return what lets so many bytes pass, for as long as the policy lists the suite."""
        counter = _Counter(left_bytes)

        def watch(piece: bytes) -> None:
            self._policy().require_content_suite(suite)
            counter(piece)

        return watch

    def _check_address(self, prologue: Prologue, round_: int, envelope_id: bytes, request: web.BaseRequest) -> None:
        header, length_bytes = prologue.header, request.content_length
        if (header.round, header.envelope_id) != (round_, envelope_id):
            raise MessageError("the envelope is another one than the address says", reason="wrong_address")
        if header.direction != "update" or header.federation != self._roster.federation:
            raise MessageError("the envelope is no update of this federation", reason="wrong_direction")
        expected = envelope_bytes(prologue)
        is_part = UploadFields.of(request.headers).complete is False
        if length_bytes is None or length_bytes == expected or (is_part and length_bytes < expected):
            return
        reason = "truncated" if length_bytes < expected else "excess"
        raise MessageError(f"the request has {length_bytes} bytes, the envelope {expected}", reason=reason)

    async def _document(self, round_number: int, session: Session) -> RoundDocument:
        known = self._known
        if known is not None and known.until > self._clock() and known.document.round == round_number:
            return known.document
        document = await self._fetch(session)
        self._known = _Known(document, self._clock() + _FRESH_SECONDS)
        return document

    def _require_open(self, header: Header, document: RoundDocument) -> None:
        now = self._clock()
        _require_collecting(document, header.round)
        if header.challenge != document.challenge or header.base_model_digest != document.model_digest:
            raise RoundError("the update answers another challenge, or another model", reason="wrong_challenge")
        if header.suite != document.suite:
            raise RoundError(f"the round takes {document.suite}, the update is {header.suite}", reason="wrong_suite")
        if header.recipients != (sha256(document.receiving_key).digest(),):
            raise MessageError("the update is sealed for somebody else than this round", reason="misaddressed")
        if now > document.not_after or (header.not_after and now > header.not_after):
            raise RoundError("the update, or its round, has expired", reason="expired")
        if header.plaintext_bytes > _most_plaintext(document):
            raise MessageError(
                f"the update announces {header.plaintext_bytes} bytes, the model has {document.plaintext_bytes}",
                reason="too_large",
            )

    def _aggregator_keys(self) -> list[VerifyingKey]:
        """Return whose rounds count. Raises ``CertificateError`` where every aggregator was revoked."""
        now = self._clock()
        found: list[VerifyingKey] = []
        failure = None
        for party in self._roster.parties.values():
            if party.id.role is not Role.AGGREGATOR:
                continue
            try:
                good = party
                if self._revocations is not None:
                    good = self._revocations.with_good_keys(party, datetime.fromtimestamp(now, UTC))
            except CertificateError as error:
                failure = failure or error
            else:
                found += good.signing_keys(now)
        if failure is not None and not found:
            raise failure
        return found

    async def _fetch(self, session: Session) -> RoundDocument:
        nonce = secrets.token_hex(16)
        keys = self._aggregator_keys()
        url = f"http://backend/v1/rounds/current?nonce={nonce}"
        try:
            async with session.upstream.session.get(url) as answer:
                data = await answer.content.read(MAX_DOCUMENT_BYTES + 1)
                while not answer.content.at_eof() and len(data) <= MAX_DOCUMENT_BYTES:
                    data += await answer.content.read(MAX_DOCUMENT_BYTES + 1 - len(data))
                status = answer.status
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(
                f"the aggregator gives no round document: {type(error).__name__}", reason="target_down"
            ) from error
        if status != 200:  # noqa: PLR2004
            raise TransportError(f"the aggregator gives no round document: HTTP status {status}", reason="not_ready")
        return await to_thread(open_round_document, data, keys, nonce=nonce)


def _require_post_quantum(session: Session) -> None:
    if not session.peer.post_quantum:
        raise MessageError("an update passes over a post-quantum connection only", reason="classical_channel")


def _require_collecting(document: RoundDocument, round_number: int) -> None:
    if document.state is not RoundState.COLLECTING or round_number != document.round:
        raise RoundError(
            f"round {document.round} is {document.state.value}; the update is for round {round_number}",
            reason="wrong_round",
        )


def _most_plaintext(document: RoundDocument) -> int:
    return document.plaintext_bytes + _METADATA_BYTES


class _Counter:
    """Lets exactly so many bytes of a body pass."""

    def __init__(self, left_bytes: int) -> None:
        self._left = left_bytes

    def __call__(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise MessageError("the body is longer than the envelope says", reason="excess")


async def _read_prologue(request: web.BaseRequest) -> tuple[Prologue, bytes]:
    reader = PrologueReader()
    async for piece in request.content.iter_any():
        prologue = reader.feed(piece)
        if prologue is not None:
            return prologue, reader.rest
    reader.finish()
    raise MessageError("the envelope is empty", reason="truncated")
