"""Certification requests: a new key that asks for a certificate and proves that its private half is there.

A request is PKCS#10 (RFC 2986; ML-DSA by RFC 9881, ECDSA for classical twins): the key signs it itself, and its one
requested name is the party's SPIFFE ID, so that nobody can pass off somebody else's request, and with it somebody
else's key, as his own.
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from pqfl_transport.crypto.pyca import MLDSAPublicKey, SigningKey, VerifyingKey
from pqfl_transport.errors import MessageError
from pqfl_transport.pki.spiffe import SpiffeId

MAX_REQUEST_BYTES = 16 * 1024
"""A request of ML-DSA-87 has 7.4 kB."""


def make_request(party: SpiffeId, key: SigningKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Return the DER of a request for ``key``, signed by itself."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(party))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(names, critical=True)
    request = builder.sign(key.pyca_key, None) if isinstance(key, SigningKey) else builder.sign(key, SHA256())
    return request.public_bytes(Encoding.DER)


def open_request(der: bytes, party: SpiffeId, what: str) -> VerifyingKey:
    """Verify a request and return its key; ``what`` names it in messages.

    Raises ``MessageError``: ``too_large``, ``malformed``, ``bad_sigalg`` for a key other than ML-DSA,
    ``bad_signature`` where the key did not sign it, ``wrong_name`` where it asks for any name but this party's.
    """
    request = _parsed(der, what)
    key = request.public_key()
    if not isinstance(key, MLDSAPublicKey):
        raise MessageError(f"{what}: not for an ML-DSA key but for {type(key).__name__}", reason="bad_sigalg")
    _require_proof(request, party, what)
    return VerifyingKey(key)


def open_twin_request(der: bytes, party: SpiffeId, what: str) -> ec.EllipticCurvePublicKey:
    """Verify a request for a classical twin and return its key; whoever certifies it looks at the curve.

    Raises as `open_request` does, with ``bad_sigalg`` for all but ECDSA.
    """
    request = _parsed(der, what)
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise MessageError(f"{what}: not for an ECDSA key but for {type(key).__name__}", reason="bad_sigalg")
    _require_proof(request, party, what)
    return key


def _parsed(der: bytes, what: str) -> x509.CertificateSigningRequest:
    if len(der) > MAX_REQUEST_BYTES:
        raise MessageError(f"{what}: {len(der)} bytes, more than {MAX_REQUEST_BYTES}", reason="too_large")
    try:
        request = x509.load_der_x509_csr(der)
        # The library parses these late.
        _ = request.public_key(), list(request.extensions), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise MessageError(f"{what}: no certification request (RFC 2986): {error}", reason="malformed") from error
    return request


def _require_proof(request: x509.CertificateSigningRequest, party: SpiffeId, what: str) -> None:
    if not request.is_signature_valid:
        raise MessageError(f"{what}: is not signed by the key that it is for", reason="bad_signature")
    extensions = list(request.extensions)
    names = [one.value for one in extensions if isinstance(one.value, x509.SubjectAlternativeName)]
    if len(extensions) != 1 or len(names) != 1 or list(names[0]) != [x509.UniformResourceIdentifier(str(party))]:
        raise MessageError(f"{what}: asks for something else than the one name {party}", reason="wrong_name")
