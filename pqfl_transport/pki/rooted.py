"""Which roots a party takes over from others: none but those that a root it trusts already vouches for.

Only roots sign rosters, so whoever could slip one into somebody's ``ca.pem`` could decide who belongs to a federation.
A new root comes with a certificate for the same key and name that an old root has signed (RFC 4210 §4.4, "newWithOld").
"""

from collections.abc import Sequence

from cryptography import x509

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki import chain
from pqfl_transport.pki.extensions import describe


def require_vouched_for(anchors: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]) -> None:
    """Raise ``CertificateError`` (``wrong_root``) for a root that no trusted one leads to, or where none is left.

    ``trusted`` are roots that are believed already; ``anchors`` is what is to be believed from now on.
    """
    believed = {root for root in trusted if chain.is_self_signed(root)}
    roots = {anchor for anchor in anchors if chain.is_self_signed(anchor)}
    crossing = [anchor for anchor in anchors if anchor not in roots]
    for _ in roots:
        believed |= {root for root in roots if any(_vouches(one, root, believed) for one in crossing)}
    if strangers := roots - believed:
        names = ", ".join(sorted(describe(root) for root in strangers))
        raise CertificateError(f"nobody who is trusted here vouches for {names}", reason="wrong_root")
    if not roots:
        raise CertificateError("there is no root among these authorities", reason="wrong_root")


def _vouches(cross: x509.Certificate, root: x509.Certificate, believed: set[x509.Certificate]) -> bool:
    same = cross.subject == root.subject and chain.public_key(cross) == chain.public_key(root)
    return same and any(chain.is_signed_by(cross, old) for old in believed)
