"""Revocation lists of a test's federation, signed by its issuing authority: who is on them, how old they are."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509

from pqfl_transport.pki import keystore
from pqfl_transport.pki.revocation import Revocations, open_crls
from tests.support.classical import Signer, make_crl, pem
from tests.support.pki import Federation, federation_signer

TLS, SIGNING = "tls.pem", "signing.pem"


def crl(
    federation: Federation,
    revoked: Iterable[Path] = (),
    *,
    number: int = 1,
    age_seconds: float = 0,
    seconds_left: float = 7 * 86400,
    certificates: Iterable[str] = (TLS, SIGNING),
) -> bytes:
    """A list, PEM, that revokes these identity folders; ``certificates`` says which of each.

    It was made ``age_seconds`` ago and is due to be replaced in ``seconds_left``, which may be negative.
    """
    names = tuple(certificates)
    files = [folder / name for folder in revoked for name in names if (folder / name).exists()]
    serials = [x509.load_pem_x509_certificate(file.read_bytes()).serial_number for file in files]
    return _signed(federation, serials, number=number, age_seconds=age_seconds, seconds_left=seconds_left)


def _signed(
    federation: Federation, serials: Iterable[int], *, number: int = 1, age_seconds: float = 0,
    seconds_left: float = 7 * 86400,
) -> bytes:  # fmt: skip
    begin = datetime.now(UTC) - timedelta(seconds=age_seconds) + timedelta(minutes=1)
    issuing = federation_signer(federation)
    signer = Signer(issuing.certificate, issuing.key)
    days = (age_seconds - 60 + seconds_left) / 86400
    return pem(make_crl(signer, number=number, revoked=dict.fromkeys(serials), begin=begin, days=days))


def publish_crl(
    federation: Federation,
    path: Path,
    revoked: Iterable[Path] = (),
    *,
    number: int = 1,
    age_seconds: float = 0,
    seconds_left: float = 7 * 86400,
    certificates: Iterable[str] = (TLS, SIGNING),
) -> Path:
    """Write such a list and return its path."""
    data = crl(
        federation,
        revoked,
        number=number,
        age_seconds=age_seconds,
        seconds_left=seconds_left,
        certificates=certificates,
    )
    keystore.write_public(path, data)
    return path


def revocations(federation: Federation, *sites: str, **facts: Any) -> Revocations:
    """The lists as a reader has them, with these sites on them; further ``facts`` are those of `crl`."""
    return as_read(federation, crl(federation, [federation.site(name) for name in sites], **facts))


def revoking(federation: Federation, *serials: int, number: int = 1) -> Revocations:
    """The lists as a reader has them, with these serial numbers on them."""
    return as_read(federation, _signed(federation, serials, number=number))


def as_read(federation: Federation, data: bytes) -> Revocations:
    """What is in a file of lists."""
    anchors = keystore.load_anchors(federation.ca_pem)
    return open_crls(data, anchors, policy=federation.authority.policy, now=datetime.now(UTC))


@dataclass(slots=True)
class CrlSource:
    """A server of lists, or of whatever a test puts into ``body``."""

    url: str
    body: bytes
    status: int = 200
    endless: bool = False
    """Send the body again and again, without a length."""
    asked: int = 0
    tag: str = ""
    """The entity tag that it names the body by."""
    waits: bool = False
    """Say that the answer was waited for."""
    bodies: int = 0
    headers: dict[str, str | None] = field(default_factory=dict)
    """Of the last request: what it has seen, and how long it would wait."""


@contextmanager
def crl_source(body: bytes = b"") -> Iterator[CrlSource]:
    """Serve lists over plain HTTP on a loopback port for one block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            source.asked += 1
            source.headers = {name: self.headers.get(name) for name in ("If-None-Match", "Prefer")}
            is_same = bool(source.tag) and source.headers["If-None-Match"] == source.tag
            self.send_response(304 if is_same and source.status == 200 else source.status)
            if source.tag:
                self.send_header("ETag", source.tag)
            if source.waits:
                self.send_header("Preference-Applied", "wait=7")
            if is_same or source.status == 304:
                self.end_headers()
                return
            source.bodies += 1
            if not source.endless:
                self.send_header("Content-Length", str(len(source.body)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(source.body)
                while source.endless:
                    self.wfile.write(source.body)

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    source = CrlSource(f"http://127.0.0.1:{server.server_port}/v1/crl", body)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield source
    finally:
        source.endless = False
        server.shutdown()
        server.server_close()
