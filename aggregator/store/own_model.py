"""The current model for the aggregator itself, to go on from after a restart: a file that only its own key opens.

    file = LP(H, W) ‖ body
    H    = LP("pqfl-own-model/v1", federation, version, digest of the model, fingerprint of the receiving key)
    W    = 32 random bytes, wrapped to the receiving key of the identity folder and bound to H

Key and context of the body are those of an envelope (ENVELOPE.md §4) with these H and W. There is no signature: what
counts is the digest that the database keeps. The sealed models beside it stay readable for sites alone.
"""

import secrets
from contextlib import suppress
from pathlib import Path

from pqfl_transport.aggregation.fedavg import Weights
from pqfl_transport.content.header import CONTENT_KEY_BYTES, split_items
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.sealing import body_context, body_key, slices
from pqfl_transport.content.staging import remove_torn, staged
from pqfl_transport.content.tensors import TensorLayout, allocate, model_digest, parse
from pqfl_transport.crypto.contexts import LENGTH_BYTES, length_prefixed
from pqfl_transport.crypto.pyca import BODY_CHUNK_BYTES, BODY_COMMITMENT_BYTES, BodyDecryptor, body_encryptor
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError, PqflError

_VERSION = b"pqfl-own-model/v1"
_SUFFIX = ".own"
_NUMBER_BYTES = 8
_HEAD_ITEMS = 2
_FACTS = 5
_MAX_HEAD_BYTES = 64 * 1024
_SLICE_BYTES = 1 << 20


class OwnModels:
    """The models of one run that its aggregator can open again; ``keys`` are those of its identity folder."""

    def __init__(self, folder: Path, keys: ReceivingKeys, federation: str) -> None:
        """Use ``folder``, made with mode 0700 when it is missing. Raises ``ConfigurationError`` (``not_writable``)."""
        self._folder, self._keys, self._federation = folder / "own", keys, federation.encode()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_torn(self._folder)
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder}: cannot use the state folder: {error.strerror}", reason="not_writable"
            ) from error

    def save(self, version: int, digest: bytes, weights: Weights) -> None:
        """Write a model. Raises ``PlatformError`` (``disk``); then nothing is left behind."""
        key, recipient = secrets.token_bytes(CONTENT_KEY_BYTES), self._keys.newest.opened.public
        facts = self._facts(version, digest, recipient.fingerprint)
        wrapped = recipient.wrap(key, facts)
        encryptor = body_encryptor(body_key(key, facts), body_context(facts, [wrapped]))
        try:
            with staged(self._path(version)) as file:
                file.write(length_prefixed(facts, wrapped))
                for buffer in TensorLayout.of(weights).buffers():
                    file.writelines(encryptor.update(part) for part in slices(buffer))
                file.write(encryptor.finalize())
        except PqflError as error:
            raise PlatformError(f"cannot store the model: {error}", reason="disk") from error

    def load(self, version: int, digest: bytes) -> Weights:
        """Return a model. Raises ``ConfigurationError`` (``own_model``) where it cannot be opened or is another one."""
        path = self._path(version)
        try:
            weights = self._open(path, version, digest)
            if model_digest(weights) != digest:
                raise MessageError("it is another model", reason="wrong_model")
        except (OSError, PqflError) as error:
            detail = error.strerror if isinstance(error, OSError) else error
            raise ConfigurationError(
                f"{path}: the model that the run goes on from cannot be opened: {detail}", reason="own_model"
            ) from error
        return weights

    def keep_only(self, version: int) -> None:
        """Remove all models but one."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path != self._path(version):
                # What cannot be removed now is removed after the next round.
                with suppress(OSError):
                    path.unlink()

    def _open(self, path: Path, version: int, digest: bytes) -> Weights:
        with path.open("rb") as file:
            head = []
            for _ in range(_HEAD_ITEMS):
                length = int.from_bytes(file.read(LENGTH_BYTES), "big")
                if length > _MAX_HEAD_BYTES:
                    raise MessageError("its head is damaged", reason="malformed")
                head.append(file.read(length))
            facts, wrapped = head
            items = split_items(facts, "head", maximum=_FACTS)
            if len(items) != _FACTS or facts != self._facts(version, digest, items[-1]):
                raise MessageError("it is of another run or version", reason="wrong_version")
            key = self._keys.find([items[-1]], 0).opened.unwrap(wrapped, facts)
            decryptor = BodyDecryptor(body_key(key, facts), body_context(facts, [wrapped]))
            plaintext, at = allocate(path.stat().st_size + BODY_CHUNK_BYTES), 0
            decryptor.update_into(file.read(BODY_COMMITMENT_BYTES), bytearray())
            while data := file.read(_SLICE_BYTES):
                at += decryptor.update_into(data, plaintext[at:])
            last = decryptor.finalize()
            plaintext[at : at + len(last)] = last
        return parse(plaintext[: at + len(last)])[0]

    def _facts(self, version: int, digest: bytes, fingerprint: bytes) -> bytes:
        return length_prefixed(_VERSION, self._federation, version.to_bytes(_NUMBER_BYTES, "big"), digest, fingerprint)

    def _path(self, version: int) -> Path:
        return self._folder / f"{version:08d}{_SUFFIX}"
