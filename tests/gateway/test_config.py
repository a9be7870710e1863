"""A sidecar's configuration: what is plain stays on the machine unless somebody says otherwise."""

from typing import Any

import pytest

from gateway.config import SidecarConfig
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address
from pqfl_transport.policy import for_level
from pqfl_transport.tls.config import AllowedPeers, Role, TlsConfig, TlsIdentity
from tests.support.pki import Federation, make_federation

LOCAL, REMOTE = Address("127.0.0.1", 1), Address("10.0.0.1", 1)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def tls(federation: Federation, role: Role) -> TlsConfig:
    folder = federation.gateway if role is Role.SERVER else federation.site("bank-a")
    identity = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
    return TlsConfig(role, identity, for_level("high"), AllowedPeers(any_of_federation=True))


def test_the_side_that_speaks_tls_may_be_anywhere(federation: Federation) -> None:
    """A server listens for the world, a client dials it."""
    assert SidecarConfig(REMOTE, LOCAL, tls(federation, Role.SERVER)).role is Role.SERVER
    assert SidecarConfig(LOCAL, REMOTE, tls(federation, Role.CLIENT)).role is Role.CLIENT


@pytest.mark.parametrize(
    ("role", "listen", "target", "flag", "escape"),
    [
        (Role.SERVER, LOCAL, REMOTE, "--target", "unsafe_target"),
        (Role.CLIENT, REMOTE, LOCAL, "--listen", "unsafe_listen"),
    ],
)
def test_the_plain_side_stays_here(
    federation: Federation, role: Role, listen: Address, target: Address, flag: str, escape: str
) -> None:
    """Another machine in clear needs the flag that says so."""
    with pytest.raises(ConfigurationError, match=rf"{flag} 10\.0\.0\.1:1.*--unsafe-{flag[2:]}") as caught:
        SidecarConfig(listen, target, tls(federation, role))
    assert caught.value.reason == "not_local"
    options: dict[str, Any] = {escape: True}
    SidecarConfig(listen, target, tls(federation, role), **options)


def test_the_status_page_is_always_local(federation: Federation) -> None:
    """There is no flag that shows it to others."""
    with pytest.raises(ConfigurationError, match="--status"):
        SidecarConfig(REMOTE, LOCAL, tls(federation, Role.SERVER), status=REMOTE, unsafe_target=True)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_times_are_more_than_nothing(federation: Federation, seconds: float) -> None:
    """A timeout of zero would refuse everybody."""
    with pytest.raises(ConfigurationError, match="--connect-timeout"):
        SidecarConfig(REMOTE, LOCAL, tls(federation, Role.SERVER), connect_timeout_seconds=seconds)
