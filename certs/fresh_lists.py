"""Revocation lists that are always current: a service that has the issuing keys signs the next ones in time.

A list past its next update makes its readers refuse everybody (`pki.revocation`), and nobody should have to think of
it. The root's list is left as it is, because its key is not there.
"""

from datetime import datetime, timedelta

from cryptography import x509

from certs.authority import Authority
from certs.entry import sha256_of
from certs.revoking import LIST_DAYS, ListMade, issuing_authorities
from pqfl_transport.pki import keystore
from pqfl_transport.pki.references import identifier_of
from pqfl_transport.pki.revocation import MAX_CRL_BYTES, split_crls


def keep_fresh(authority: Authority, now: datetime, *, days: int = LIST_DAYS) -> tuple[ListMade, ...]:
    """Sign the next lists for so many days where one is missing, superfluous, or has less than half of that left.

    Returns what was signed. Raises what `Authority.make_crl` raises.
    """
    return authority.make_crl(days=days, now=now) if _are_due(authority, now, timedelta(days=days)) else ()


def _are_due(authority: Authority, now: datetime, validity: timedelta) -> bool:
    files = [authority.crl_path, *([authority.dual_crl_path] if authority.classical_path.exists() else [])]
    if not all(path.exists() for path in files) or _has_others(authority):
        return True
    ends = [authority.ledger.list_end(sha256_of(one)) for one, _ in issuing_authorities(authority, now)]
    return any(end is None or end - validity / 2 < now for end in ends)


def _has_others(authority: Authority) -> bool:
    """Whether there is a list of an authority that was retired: readers refuse a file with one."""
    known = {identifier_of(one) for one in keystore.load_anchors(authority.ca_path)}
    for one in split_crls(keystore.read_public(authority.crl_path, max_bytes=MAX_CRL_BYTES)):
        above = one.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        if above not in known:
            return True
    return False
