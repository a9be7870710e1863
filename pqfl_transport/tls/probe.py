"""What this libcrypto can really negotiate, shown by handshakes in memory with throw-away certificates.

A list of names that a library claims to know is no evidence: providers can be missing, configuration can hide groups.
"""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from pqfl_transport.algorithms import TABLE, Algorithm, Kind, find
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import PqflError
from pqfl_transport.tls.libssl import Identity, Link, LinkFactory, Settings, Status

_KEY = "ML-DSA-65"
_GROUP = "X25519MLKEM768"
_SUITE = "TLS_AES_256_GCM_SHA384"
_FAMILY_OF_SIGNATURES = "ML-DSA-"
_MAX_FLIGHTS = 6
# The certificates live as long as one probe, and the handshake judges them as of this moment and not of the clock's.
_NOW = datetime(2026, 1, 1, tzinfo=UTC)

Verdict = tuple[bool, str]
"""(works, why)"""


def negotiable_groups() -> dict[str, Verdict]:
    """Try a handshake over every TLS group there is a row for; return, by name, whether it worked and why (not)."""
    return {row.name: _try(row, find(_KEY, Kind.SIGNATURE)) for row in TABLE if row.kind is Kind.TLS_GROUP}


def negotiable_signatures() -> dict[str, Verdict]:
    """Try a handshake with certificates of every ML-DSA row; return, by name, whether it worked and why (not)."""
    group = find(_GROUP, Kind.TLS_GROUP)
    rows = (row for row in TABLE if row.kind is Kind.SIGNATURE and row.name.startswith(_FAMILY_OF_SIGNATURES))
    return {row.name: _try(group, row) for row in rows}


def _try(group: Algorithm, signature: Algorithm) -> Verdict:
    try:
        certificate, key_pem = _throw_away(signature.name)
        client, server = (_link(group, signature, certificate, key_pem, server=server) for server in (False, True))
        why = _shake_hands(client, server)
    except (PqflError, UnsupportedAlgorithm) as error:
        return False, str(error)
    if why:
        return False, why
    if client.group != group.name:
        return False, f"negotiated {client.group} instead"
    return True, f"{client.version}, {client.group}, {signature.name}"


def _link(group: Algorithm, signature: Algorithm, certificate: x509.Certificate, key: bytes, *, server: bool) -> Link:
    settings = Settings(
        server=server,
        groups=(group.openssl_name or group.name,),
        signature_algorithms=(signature.openssl_name or signature.name,),
        cipher_suites=(_SUITE,),
        identities=(Identity(certificate, key),),
        anchors=(certificate,),
    )
    # Whether algorithms work is asked here, and not whom anybody trusts.
    return LinkFactory(settings).new_link(lambda _leaf, _error, _chain: 0, server_name=None, now=_NOW)


def _shake_hands(client: Link, server: Link) -> str:
    """Carry the flights to and fro; return why it failed, ``""`` when both ends are done."""
    status = {client: Status.WANT_READ, server: Status.WANT_READ}
    for _ in range(_MAX_FLIGHTS):
        for end, other in ((client, server), (server, client)):
            if status[end] is Status.WANT_READ:
                status[end] = end.do_handshake()
            other.feed(end.take(end.outgoing_bytes))
            if status[end] is Status.FAILED:
                return "; ".join(error.text for error in end.errors) or "the handshake failed"
        if set(status.values()) == {Status.DONE}:
            return ""
    return "the handshake does not end"


def _throw_away(algorithm: str) -> tuple[x509.Certificate, bytes]:
    key = SigningKey.generate(algorithm)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "probe")])
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.pyca_key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_NOW - timedelta(days=1),
        not_valid_after=_NOW + timedelta(days=1),
    )
    return builder.sign(key.pyca_key, None), key.to_pem()
