"""Name constraints (RFC 5280 §4.2.1.10): what an authority's certificate permits in the names beneath it.

    permits nothing of a type        names of that type are as they please
    permits some subtrees of a type  every name of that type has to lie in one of them
    excludes a subtree               no name lies in it, whatever is permitted

Evaluated are URIs, DNS names, addresses, e-mail addresses and directory names, the subject among these. A name of any
other type is refused where the extension says anything about that type, because what it says is not evaluated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki.extensions import describe, find_extension

Typed = tuple[type[x509.GeneralName], Any]
"""A name as its type and its value."""

NO_MAIL = x509.RFC822Name(".invalid")
"""Permitting this alone excludes e-mail: nobody has an address in there (RFC 6761 §6.4), and no form excludes all."""

EVERY_HOST = x509.DNSName("")
EVERY_ADDRESS = tuple(x509.IPAddress(ip_network(every)) for every in ("0.0.0.0/0", "::/0"))


def permitted_federations(authority: x509.Certificate) -> tuple[str, ...] | None:
    """Return the hosts that an authority permits in URIs; ``None`` where it does not constrain them."""
    permitted = _subtrees(authority, excluded=False)
    return tuple(one.value for one in permitted if isinstance(one, x509.UniformResourceIdentifier)) or None


def permitted_hosts(authority: x509.Certificate) -> tuple[str, ...] | None:
    """Return the domains and networks that an authority permits, none at all where it is empty; ``None`` for any."""
    domains, networks = _permitted(authority, x509.DNSName), _permitted(authority, x509.IPAddress)
    if domains is None and networks is None:
        return None
    return (*map(str, domains or ()), *map(str, networks or ()))


def require_permitted(path: Sequence[x509.Certificate]) -> None:
    """Raise ``CertificateError`` (``bad_name``) where a certificate has a name that one above it does not permit.

    ``path`` goes from the leaf to the anchor, whose constraints count too.
    """
    for above, authority in enumerate(path):
        for certificate in path[:above]:
            require_names_permitted(authority, _names(certificate), describe(certificate))


def require_names_permitted(authority: x509.Certificate, names: Iterable[Typed], what: str) -> None:
    """Raise ``CertificateError`` (``bad_name``) where this authority does not permit one of these names of ``what``."""
    permitted, excluded = _subtrees(authority, excluded=False), _subtrees(authority, excluded=True)
    for kind, value in names:
        own = [one.value for one in permitted if type(one) is kind]
        against = [one.value for one in excluded if type(one) is kind]
        why = _objection(kind, value, own, against)
        if why is not None:
            raise CertificateError(
                f"{what} has the name {_spoken(value)[:300]}, and {describe(authority)} {why}", reason="bad_name"
            )


def _objection(kind: type[x509.GeneralName], value: Any, permitted: list[Any], excluded: list[Any]) -> str | None:
    if not permitted and not excluded:
        return None
    lies_in = _LIES_IN.get(kind)
    if lies_in is None:
        return "constrains names of its type in a way that is not evaluated here"
    # Where it cannot be told whether a name lies in a subtree, it is not permitted by one, and excluded by one.
    if any(lies_in(value, one, True) for one in excluded):
        return "excludes it"
    if permitted and not any(lies_in(value, one, False) for one in permitted):
        return f"permits only {', '.join(map(_spoken, permitted))[:300]}"
    return None


def _subtrees(authority: x509.Certificate, *, excluded: bool) -> Sequence[x509.GeneralName]:
    found = find_extension(authority, x509.NameConstraints)
    if found is None:
        return ()
    return (found.excluded_subtrees if excluded else found.permitted_subtrees) or ()


def _permitted(authority: x509.Certificate, kind: type[x509.GeneralName]) -> list[Any] | None:
    own = [one.value for one in _subtrees(authority, excluded=False) if isinstance(one, kind)]
    is_constrained = own or any(isinstance(one, kind) for one in _subtrees(authority, excluded=True))
    return own if is_constrained else None


def _names(certificate: x509.Certificate) -> Iterator[Typed]:
    subject = certificate.subject
    if subject.rdns:
        yield x509.DirectoryName, subject
    for attribute in subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        yield x509.RFC822Name, attribute.value
    for name in find_extension(certificate, x509.SubjectAlternativeName) or ():
        yield type(name), name.value


def _uri_lies_in(uri: str, host: str, doubt: bool) -> bool:
    try:
        own = urlsplit(uri).hostname
    except ValueError:
        own = None
    return doubt if not own else _host_lies_in(own, host)


def _mail_lies_in(address: str, subtree: str, doubt: bool) -> bool:
    local, at, host = address.rpartition("@")
    if not (local and at and host):
        return doubt
    if "@" not in subtree:
        return _host_lies_in(host, subtree)
    # Whose mailbox it is may depend on the case of its letters (RFC 5321 §2.4).
    of_local, _, of_host = subtree.rpartition("@")
    return local == of_local and host.lower() == of_host.lower()


def _host_lies_in(host: str, subtree: str) -> bool:
    """For URIs and e-mail a domain is one host, and with a dot in front everything in it."""
    host, subtree = host.lower(), subtree.lower()
    return host.endswith(subtree) if subtree.startswith(".") else host == subtree


def _dns_lies_in(name: str, subtree: str, doubt: bool) -> bool:
    name, subtree = name.lower(), subtree.lower().removeprefix(".")
    if not subtree or f".{name}".endswith(f".{subtree}"):
        return True
    # A wildcard stands for one label, so it may stand for a name that lies in there.
    is_wide = name.startswith("*.") and subtree.partition(".")[2] == name.removeprefix("*.")
    return doubt if is_wide else False


def _address_lies_in(address: Any, network: Any, doubt: bool) -> bool:
    # In a subject alternative name a network is no address, and is one all the same for the parser.
    return doubt if hasattr(address, "prefixlen") else address in network


def _directory_lies_in(name: x509.Name, subtree: x509.Name, _doubt: bool) -> bool:
    own, above = ([_folded(rdn) for rdn in one.rdns] for one in (name, subtree))
    return own[: len(above)] == above


def _folded(rdn: x509.RelativeDistinguishedName) -> frozenset[tuple[str, object]]:
    """Return what makes two of them the same: neither case nor the amount of white space does (RFC 5280 §7.1)."""
    return frozenset(
        (one.oid.dotted_string, " ".join(one.value.casefold().split()) if isinstance(one.value, str) else one.value)
        for one in rdn
    )


_LIES_IN: Mapping[type[x509.GeneralName], Callable[[Any, Any, bool], bool]] = MappingProxyType(
    {
        x509.UniformResourceIdentifier: _uri_lies_in,
        x509.RFC822Name: _mail_lies_in,
        x509.DNSName: _dns_lies_in,
        x509.IPAddress: _address_lies_in,
        x509.DirectoryName: _directory_lies_in,
    }
)


def _spoken(value: object) -> str:
    return repr(value.rfc4514_string() if isinstance(value, x509.Name) else str(value))
