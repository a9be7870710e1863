"""Verifying an envelope without any secret: prologue and trailer, from a stream of any size (ENVELOPE.md §5, §6)."""

from pqfl_transport.algorithms import content_suite
from pqfl_transport.content.envelope import Prologue, remaining_bytes, trailer_bytes
from pqfl_transport.content.sealing import trailer_hash
from pqfl_transport.crypto.contexts import Context, length_prefixed
from pqfl_transport.crypto.pyca import Buffer, VerifyingKey
from pqfl_transport.errors import MessageError


class TrailerVerifier:
    """Follows the bytes behind a *verified* prologue and says at the end whether the sender signed all of them.

    Where the header declares no trailer, only the length is checked: the sender signed no more than the prologue.
    Raises ``MessageError``: ``excess``, ``truncated``, ``bad_trailer``.
    """

    def __init__(self, prologue: Prologue, *, sender_key: VerifyingKey) -> None:
        header = prologue.header
        self._prologue, self._sender_key = prologue, sender_key
        self._hash = trailer_hash(content_suite(header.suite), prologue.commitment) if header.trailer else None
        self._trailer = bytearray()
        self._trailer_bytes = trailer_bytes(header)
        self.remaining_bytes = remaining_bytes(header)
        """How many bytes still belong to the envelope, its trailer included."""

    def split(self, data: Buffer) -> memoryview:
        """Take more of the envelope; return the part of it that is body."""
        if len(data) > self.remaining_bytes:
            raise MessageError("bytes behind the end of the envelope", reason="excess")
        view = memoryview(data)
        of_body = max(0, min(len(view), self.remaining_bytes - self._trailer_bytes))
        self.remaining_bytes -= len(view)
        self._trailer += view[of_body:]
        body = view[:of_body]
        if self._hash is not None:
            self._hash.update(body)
        return body

    def require_complete(self) -> None:
        """Raise unless every byte has come."""
        if self.remaining_bytes:
            raise MessageError(f"the envelope is {self.remaining_bytes} bytes short", reason="truncated")

    def finalize(self) -> None:
        """Raise unless every byte has come and the trailer, where there is one, is the sender's over all of them."""
        self.require_complete()
        if self._hash is None:
            return
        signed = length_prefixed(self._prologue.raw, self._hash.digest())
        try:
            self._sender_key.verify(self._trailer, signed, Context.TRAILER)
        except MessageError:
            raise MessageError("the trailer does not fit the body", reason="bad_trailer") from None
