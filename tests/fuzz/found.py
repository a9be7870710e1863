"""Inputs that once ended in something else than an error of ours, by target; README.md tells what each was."""

import io
import zipfile
from collections.abc import Callable

import numpy as np

from tests.fuzz.content_targets import KEYS
from tests.fuzz.document_targets import certificates

_LINE = '{{"facts":{facts},"hash":"","kind":"start","prev":"","seq":0,"time":"{time}"}}\n'


def _subject_of_no_text() -> bytes:
    # The issuer comes first in a certificate, the subject after it; UTF8String becomes ENUMERATED.
    der, word = certificates()[0], b"\x0c\x03fed"
    at = der.index(word, der.index(word) + 1)
    return der[:at] + b"\x0a" + der[at + 1 :]


def _of_a_version_to_come() -> bytes:
    return certificates()[0].replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)


def _archive(*, flags: int = 0, shape: tuple[int, ...] | None = None, header_end: bytes = b" \n") -> bytes:
    stored, member = io.BytesIO(), io.BytesIO()
    np.save(member, np.arange(6, dtype=np.float32))
    content = member.getvalue()
    if shape is not None:
        content = content.replace(b"(6,), }".ljust(12), f"({shape[0]},), }}".encode().ljust(12), 1)
    content = content.replace(b" \n", header_end, 1)
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("w.npy", content)
    data = bytearray(stored.getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= flags
    return bytes(data)


FOUND: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a receiving key that spells its KEM in other letters": (
        "receiving_key", lambda: KEYS.receiving.public.to_bytes().replace(b"ML-KEM", b"ML-KEm"),
    ),
    "a trustee's certificate whose subject is no text": ("contribution_certificate", _subject_of_no_text),
    "a trustee's certificate of a version to come": ("contribution_certificate", _of_a_version_to_come),
    "an audit line with half a surrogate pair": (
        "audit_log", lambda: _LINE.format(facts="{}", time="\\ud800").encode(),
    ),
    "an audit line with NaN": ("audit_log", lambda: _LINE.format(facts='{"a":NaN}', time="").encode()),
    "a proxy's URL that is not UTF-8": ("proxy_url", lambda: b"http://user:\xff@proxy:1"),
    "a listener whose role is a list": ("gateway_config", lambda: b"[[listener]]\nrole = []\n"),
    "a sidecar's file of arrays without end": ("gateway_config", lambda: b"x = " + b"[" * 5000),
    "a sidecar's file with a number of 5000 digits": ("gateway_config", lambda: b"x = " + b"9" * 5000),
    "a count of 5000 digits": ("gateway_config", lambda: b'max-concurrent-conns = "' + b"9" * 5000 + b'"'),
    "an aggregator's file of arrays without end": ("aggregator_config", lambda: b"x = " + b"[" * 5000),
    "an aggregator's file with a number of 5000 digits": ("aggregator_config", lambda: b"x = " + b"9" * 5000),
    "an event of arrays without end": ("round_event", lambda: b"[" * 100_000),
    "an encrypted array": ("weights_npz", lambda: _archive(flags=1)),
    "an array packed in a way that nobody knows": ("weights_npz", lambda: _archive(flags=0x20)),
    "an array whose header is open at its end": ("weights_npz", lambda: _archive(header_end=b"(\n")),
    "an array that claims 256 GiB": ("weights_npz", lambda: _archive(shape=(1 << 36,))),
}  # fmt: skip
"""By what it is: the target's name, and what makes the input."""
