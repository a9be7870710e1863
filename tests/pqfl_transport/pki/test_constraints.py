"""Name constraints: every type that an authority constrains is held to it, at every step; in doubt it is refused."""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from pqfl_transport.errors import CertificateError
from pqfl_transport.pki import builders
from pqfl_transport.pki.constraints import permitted_federations, permitted_hosts, require_permitted
from tests.support import pki
from tests.support.authorities import Shape, odd_authority

NOW = datetime.now(UTC)
URI, DNS, MAIL = x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name
SPIFFE = "spiffe://fed/site/a"
REGISTERED = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
OTHER = x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x01a")


def ip(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))


def name(*parts: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def organization(value: str, *more: tuple[x509.ObjectIdentifier, str]) -> x509.DirectoryName:
    return x509.DirectoryName(name((NameOID.ORGANIZATION_NAME, value), *more))


def path(
    permitted: Sequence[x509.GeneralName] | None,
    excluded: Sequence[x509.GeneralName] | None,
    names: Sequence[x509.GeneralName],
    subject: x509.Name | None = None,
) -> list[x509.Certificate]:
    """A leaf with these names beside its URI, and a root that constrains them."""
    root = odd_authority(Shape(constraints=x509.NameConstraints(permitted, excluded)), begin=NOW)
    signer = pki.Signer(root.certificate, root.key.pyca_key)
    leaf = pki.sign_leaf(signer, root.key.pyca_key, uris=[SPIFFE], usages=[], names=names, subject=subject)
    return [leaf, root.certificate]


def is_permitted(chain: Sequence[x509.Certificate]) -> bool:
    try:
        require_permitted(chain)
    except CertificateError as error:
        return error.reason != "bad_name"
    return True


@pytest.mark.parametrize(
    ("subtree", "inside", "outside"),
    [
        (DNS("example.org"), ["example.org", "a.example.org", "a.b.EXAMPLE.org", "*.example.org"],
         ["example.com", "badexample.org", "org", "*.org", ""]),
        (DNS(".example.org"), ["a.example.org"], ["example.com"]),
        (DNS(""), ["example.org", "localhost"], []),
        (ip("10.0.0.0/8"), ["10.0.0.1", "10.255.255.255"], ["11.0.0.1", "::1", "::ffff:10.0.0.1"]),
        (ip("2001:db8::/32"), ["2001:db8::1"], ["2001:db9::1", "10.0.0.1"]),
        (MAIL("example.org"), ["a@example.org", "a@EXAMPLE.ORG"], ["a@b.example.org", "a@example.com", "example.org"]),
        (MAIL(".example.org"), ["a@b.example.org"], ["a@example.org", "a@badexample.org"]),
        (MAIL("a@example.org"), ["a@Example.org"], ["b@example.org", "A@example.org"]),
        (URI("example.org"), ["https://example.org/x", "https://u@EXAMPLE.org:1/"],
         ["https://a.example.org/", "urn:example.org", "https://[::1/", "https://example.com/example.org"]),
        (URI(".example.org"), ["https://a.example.org/"], ["https://example.org/", "https://badexample.org"]),
    ],
)  # fmt: skip
def test_what_lies_in_a_subtree(subtree: x509.GeneralName, inside: list[str], outside: list[str]) -> None:
    """Permitted it lets those in and no others, excluded it keeps those out."""
    kind = type(subtree)
    others = [URI("fed")] if kind is URI else []

    def made(value: str) -> x509.GeneralName:
        if kind is x509.IPAddress:
            return ip(value)
        return MAIL._init_without_validation(value) if kind is MAIL else kind(value)  # type: ignore[call-arg]

    for value in inside:
        assert is_permitted(path([subtree, *others], None, [made(value)])), value
        assert not is_permitted(path(None, [subtree], [made(value)])), value
    for value in outside:
        assert not is_permitted(path([subtree, *others], None, [made(value)])), value


@pytest.mark.parametrize(
    ("subtree", "doubtful"),
    [
        (DNS("bad.example.org"), DNS("*.example.org")),
        (MAIL("example.org"), MAIL._init_without_validation("nobody")),
        (URI("example.org"), URI("urn:example:org")),
        (ip("10.0.0.0/8"), ip("10.0.0.0/8")),
        (ip("10.0.0.0/8"), ip("11.0.0.0/8")),
    ],
)
def test_in_doubt_a_name_is_refused(subtree: x509.GeneralName, doubtful: x509.GeneralName) -> None:
    """A wildcard that may stand for an excluded host; what has no host at all; a network in place of an address."""
    others = [URI("fed")] if isinstance(subtree, URI) else []
    assert not is_permitted(path(None, [subtree], [doubtful]))
    assert not is_permitted(path([subtree, *others], None, [doubtful]))
    assert is_permitted(path(None, [DNS("bad.example.com")], [DNS("*.example.org")]))


def test_directory_names_begin_with_what_is_permitted() -> None:
    """The subject, and names of this type beside it; case and white space make no difference (RFC 5280 §7.1)."""
    permitted = [organization("The Fed")]
    fed = (NameOID.ORGANIZATION_NAME, " the  FED ")
    unit = (NameOID.ORGANIZATIONAL_UNIT_NAME, "site")
    for subject, good in (
        (name(fed, unit), True),
        (name((NameOID.ORGANIZATION_NAME, "TheFed"), unit), False),
        (name(unit, fed), False),
        (name(unit), False),
        (name((NameOID.COMMON_NAME, "the fed")), False),
    ):
        assert is_permitted(path(permitted, None, [], subject)) is good
        assert is_permitted(path(None, permitted, [], subject)) is not good
    beside = organization("other")
    assert not is_permitted(path(permitted, None, [beside], name(fed)))
    assert is_permitted(path([*permitted, beside], None, [beside], name(fed)))


def test_an_address_in_the_subject_is_one() -> None:
    """Whoever is permitted no e-mail has none in its subject either (RFC 5280 §4.2.1.10)."""
    subject = name((NameOID.ORGANIZATION_NAME, "fed"), (NameOID.EMAIL_ADDRESS, "a@example.org"))
    assert not is_permitted(path([MAIL(".invalid")], None, [], subject))
    assert is_permitted(path([MAIL("example.org")], None, [], subject))


def test_types_that_are_not_evaluated_are_refused_where_they_are_constrained() -> None:
    """And only there: a constraint on a type that nobody uses is no obstacle."""
    for constraint, same, another in ((REGISTERED, REGISTERED, OTHER), (OTHER, OTHER, REGISTERED)):
        for chain_of in (
            lambda names, one=constraint: path([one], None, names),
            lambda names, one=constraint: path(None, [one], names),
        ):
            assert not is_permitted(chain_of([same]))
            assert is_permitted(chain_of([another]))


def test_authorities_between_are_held_to_it_as_well() -> None:
    """An authority below has names too, and what it permits makes nothing good that is refused above it."""
    root = odd_authority(Shape(constraints=x509.NameConstraints([DNS("example.org")], None)), begin=NOW)
    wide = Shape("wide", constraints=x509.NameConstraints([DNS("example.com")], None))
    below = odd_authority(wide, begin=NOW, parent=root)
    signer = pki.Signer(below.certificate, below.key.pyca_key)
    for host in ("a.example.org", "a.example.com"):
        leaf = pki.sign_leaf(signer, below.key.pyca_key, uris=[SPIFFE], usages=[], names=[DNS(host)])
        assert not is_permitted([leaf, below.certificate, root.certificate])
    named = odd_authority(Shape("named", extra=x509.SubjectAlternativeName([DNS("x.com")])), begin=NOW, parent=root)
    signer = pki.Signer(named.certificate, named.key.pyca_key)
    leaf = pki.sign_leaf(signer, named.key.pyca_key, uris=[SPIFFE], usages=[], names=[])
    assert not is_permitted([leaf, named.certificate, root.certificate])


def test_what_is_refused_is_said() -> None:
    """The name, whose it is, and what is permitted, or excluded."""
    with pytest.raises(
        CertificateError, match=r"'CN=leaf' has the name 'a\.com', and .* permits only 'example\.org', 'b'"
    ):
        require_permitted(path([DNS("example.org"), DNS("b")], None, [DNS("a.com")]))
    with pytest.raises(CertificateError, match=r"has the name '10\.0\.0\.1', and .* excludes it"):
        require_permitted(path(None, [ip("10.0.0.0/8")], [ip("10.0.0.1")]))


@pytest.mark.parametrize(
    "hosts", [None, (), ("example.org",), ("10.0.0.0/8", "2001:db8::/32"), ("example.org", "10.0.0.0/8")]
)
def test_what_an_authority_permits_is_read_again(hosts: tuple[str, ...] | None) -> None:
    """So that the next one permits the same."""
    made = builders.constraints_of("fed", hosts=hosts, directory=True)
    certificate = odd_authority(Shape(constraints=made), begin=NOW).certificate
    assert permitted_hosts(certificate) == hosts
    assert permitted_federations(certificate) == ("fed",)
    nothing = odd_authority(Shape(), begin=NOW).certificate
    assert (permitted_hosts(nothing), permitted_federations(nothing)) == (None, None)
