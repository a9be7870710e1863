"""What one end is given: wrong files stop it at its start, with their names; rules about peers are exact."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pqfl_transport.errors import ConfigurationError, PeerError
from pqfl_transport.pki.profiles import Usage
from pqfl_transport.pki.spiffe import SpiffeId
from pqfl_transport.policy import for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from tests.support import pki
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def load(folder: Path, **changes: Path) -> TlsIdentity:
    facts = {"cert_path": folder / "tls.pem", "key_path": folder / "tls.key", "ca_path": folder / "ca.pem"}
    return TlsIdentity.load(**(facts | changes))


def configure(identity: TlsIdentity, role: Role = Role.SERVER, **options: Any) -> TlsConfig:
    facts: dict[str, Any] = {"policy": for_level("high"), "allowed": AllowedPeers(any_of_federation=True)}
    return TlsConfig(role, identity, **(facts | options))


@dataclass(frozen=True, slots=True)
class Somebody:
    """A peer with names."""

    id: SpiffeId
    dns: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()


def test_a_good_identity_is_loaded_and_knows_itself(federation: Federation) -> None:
    """The own certificate is checked like a peer's, and no secret is shown when it is printed."""
    config = configure(load(federation.gateway))
    assert str(config.own.id) == federation.gateway_uri
    assert config.own.sigalg == "ML-DSA-65"
    assert "PRIVATE KEY" not in repr(config)


@pytest.mark.parametrize("which", ["cert_path", "key_path", "ca_path"])
def test_missing_and_malformed_files_are_named(federation: Federation, tmp_path: Path, which: str) -> None:
    """A file that is not there, or is something else, is an error with its path."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        load(federation.gateway, **{which: tmp_path / "nowhere"})
    if which != "key_path":
        (tmp_path / "text.pem").write_text("certificate")
        with pytest.raises(ConfigurationError, match=r"text\.pem"):
            load(federation.gateway, **{which: tmp_path / "text.pem"})


def test_a_key_that_others_can_read_is_refused(federation: Federation, tmp_path: Path) -> None:
    """The error has the command that mends it."""
    shutil.copy(federation.gateway / "tls.key", tmp_path / "tls.key")
    (tmp_path / "tls.key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        load(federation.gateway, key_path=tmp_path / "tls.key")
    assert caught.value.reason == "loose_permissions"


def test_authorities_without_a_root_are_refused(federation: Federation) -> None:
    """A leaf in place of ca.pem trusts nobody."""
    with pytest.raises(ConfigurationError, match="root") as caught:
        load(federation.gateway, ca_path=federation.gateway / "tls.pem")
    assert caught.value.reason == "no_root"


@pytest.mark.parametrize("oddity", list(pki.ODDITIES), ids=lambda oddity: oddity.__name__)
def test_an_own_certificate_that_peers_would_refuse_is_refused_at_the_start(
    federation: Federation, tmp_path: Path, oddity: pki.Oddity
) -> None:
    """The reason is the one that every peer would have given."""
    identity = load(oddity(federation, tmp_path / "odd", "gateway"), ca_path=federation.ca_pem)
    with pytest.raises(ConfigurationError, match=r"odd/tls\.pem") as caught:
        configure(identity)
    assert caught.value.reason in {pki.ODDITIES[oddity], "untrusted"}


def test_roles_need_their_own_usage(federation: Federation) -> None:
    """A site's certificate serves nobody, a gateway's dials nobody."""
    assert (Role.SERVER.own_usage, Role.CLIENT.own_usage) == (Usage.SERVER, Usage.CLIENT)
    assert Role.SERVER.peer is Role.CLIENT
    for folder, role in ((federation.site("bank-a"), Role.SERVER), (federation.gateway, Role.CLIENT)):
        with pytest.raises(ConfigurationError) as caught:
            configure(load(folder), role)
        assert caught.value.reason == "bad_usage"


def test_an_expired_own_certificate_is_refused(federation: Federation) -> None:
    """The clock that is given decides."""
    with pytest.raises(ConfigurationError) as caught:
        configure(load(federation.gateway), clock=lambda: datetime.now(UTC) + timedelta(days=365))
    assert caught.value.reason == "expired"


def test_a_level_that_the_certificate_does_not_meet(federation: Federation) -> None:
    """An ML-DSA-65 certificate does not serve under a policy that lists ML-DSA-87 alone."""
    with pytest.raises(ConfigurationError) as caught:
        configure(load(federation.gateway), policy=for_level("maximum"))
    assert caught.value.reason == "bad_sigalg"


def test_a_server_has_to_be_told_whom_it_allows(federation: Federation) -> None:
    """No rule is not every rule."""
    with pytest.raises(ConfigurationError) as caught:
        configure(load(federation.gateway), allowed=AllowedPeers())
    assert caught.value.reason == "nobody_allowed"


@pytest.mark.parametrize("alpn", [("",), ("x" * 256,)])
def test_protocol_names_have_a_length(federation: Federation, alpn: tuple[str, ...]) -> None:
    """RFC 7301 has one byte for it."""
    with pytest.raises(ConfigurationError, match="ALPN"):
        configure(load(federation.gateway), alpn=alpn)


SITE = Somebody(SpiffeId.parse("spiffe://fed/site/bank-a"), dns=("Bank-A.example",))


@pytest.mark.parametrize(
    ("rules", "federation_name", "allowed"),
    [
        (AllowedPeers(uris=("spiffe://fed/site/bank-a",)), "fed", True),
        (AllowedPeers(uris=("spiffe://fed/site/bank",)), "fed", False),
        (AllowedPeers(uris=("spiffe://fed/site/bank-a2",)), "fed", False),
        (AllowedPeers(dns=("bank-a.EXAMPLE",)), "fed", True),
        (AllowedPeers(dns=("*.example",)), "fed", False),
        (AllowedPeers(any_of_federation=True), "fed", True),
        (AllowedPeers(any_of_federation=True), "other", False),
        (AllowedPeers(), "fed", False),
    ],
)
def test_one_matching_rule_is_enough_and_none_is_nobody(
    rules: AllowedPeers, federation_name: str, allowed: bool
) -> None:
    """IDs match byte for byte, names without wildcards, and "all" means all of this federation."""
    if allowed:
        rules.check(SITE, federation=federation_name)
        return
    with pytest.raises(PeerError, match="spiffe://fed/site/bank-a") as caught:
        rules.check(SITE, federation=federation_name)
    assert caught.value.reason == "not_allowed"


def test_a_rule_that_can_never_match_is_refused() -> None:
    """A SPIFFE ID outside the grammar is a typing error and is said to be one."""
    with pytest.raises(ConfigurationError, match="allowed peer"):
        AllowedPeers(uris=("spiffe://fed/site/Bank-A",))
