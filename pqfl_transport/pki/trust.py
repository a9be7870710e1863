"""The authorities that one process trusts, read again when their file was replaced.

A federation replaces its authorities with both in everybody's ``ca.pem`` for a while (`certs.rotating`), so a process
that runs for months has to take a new file on. Whoever can write the file decides whom the process trusts, as when it
was started.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto.pyca import VerifyingKey
from pqfl_transport.pki.chain import MAX_PEM_BYTES
from pqfl_transport.pki.keystore import load_anchors, read_public, root_keys


@dataclass(slots=True)
class Trust:
    """What ``ca.pem`` holds. Threads may read it while another one calls `refresh`: all that changes is one tuple."""

    certificates: tuple[x509.Certificate, ...]
    path: Path | None = None
    _seen: bytes = b""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file. Raises as `keystore.load_anchors` does."""
        found = cls((), path)
        found.refresh()
        return found

    @classmethod
    def of(cls, certificates: Iterable[x509.Certificate]) -> Self:
        """Return trust that never changes."""
        return cls(tuple(certificates))

    @property
    def roots(self) -> tuple[VerifyingKey, ...]:
        """The keys that may sign rosters and advisories."""
        return tuple(root_keys(self.certificates))

    @property
    def pem(self) -> bytes:
        """All certificates as PEM."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in self.certificates)

    def refresh(self) -> bool:
        """Read the file again, and return whether it holds other authorities now.

        Raises as `keystore.load_anchors` does, naming the file, and then nothing has changed.
        """
        if self.path is None:
            return False
        data = read_public(self.path, max_bytes=MAX_PEM_BYTES)
        if data == self._seen:
            return False
        # Two reads: were the file replaced between them, the next call would find other bytes and read it again.
        before, self.certificates = self.certificates, load_anchors(self.path)
        self._seen = data
        return self.certificates != before
