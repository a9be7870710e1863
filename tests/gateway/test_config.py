"""A sidecar's configuration: what is plain stays on the machine unless somebody says otherwise."""

from typing import Any

import pytest

from gateway.config import HttpRules, ListenerConfig, Mode, Profile, ServiceConfig
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.net.address import Address
from pqfl_transport.tls.config import Role
from tests.support.listeners import LOCAL, REMOTE, listener
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def test_the_side_that_speaks_tls_may_be_anywhere(federation: Federation) -> None:
    """A server listens for the world, a client dials it."""
    assert listener(federation, listen=REMOTE).role is Role.SERVER
    assert listener(federation, Role.CLIENT, targets=(REMOTE,)).role is Role.CLIENT


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
        listener(federation, role, listen=listen, targets=(LOCAL, target))
    assert caught.value.reason == "not_local"
    options: dict[str, Any] = {escape: True}
    listener(federation, role, listen=listen, targets=(LOCAL, target), **options)


def test_the_status_page_is_always_local(federation: Federation) -> None:
    """There is no flag that shows it to others."""
    with pytest.raises(ConfigurationError, match="--status"):
        ServiceConfig((listener(federation, unsafe_target=True),), status=REMOTE)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"targets": ()}, "no_target"),
        ({"http": HttpRules(Profile.FLOWER)}, "wrong_mode"),
        ({"mode": Mode.HTTP, "http": HttpRules(Profile.AGGREGATOR)}, "no_roster"),
    ],
)
def test_what_does_not_go_together_is_refused(federation: Federation, options: dict[str, Any], reason: str) -> None:
    """Without a target, with a profile that nobody would look at, without the roster to look into."""
    with pytest.raises(ConfigurationError) as caught:
        listener(federation, **options)
    assert caught.value.reason == reason


def test_a_client_carries_bytes(federation: Federation) -> None:
    """It has no HTTP mode to be confused with."""
    with pytest.raises(ConfigurationError, match="pqfl server"):
        listener(federation, Role.CLIENT, mode=Mode.HTTP)


def service(federation: Federation, *names: str, **options: Any) -> ServiceConfig:
    listeners: tuple[ListenerConfig, ...] = tuple(listener(federation, name=name) for name in names)
    return ServiceConfig(listeners, **options)


@pytest.mark.parametrize("workers", [0, -1, 1000])
def test_workers_are_a_sensible_number(federation: Federation, workers: int) -> None:
    """None, and a thousand, are mistakes."""
    with pytest.raises(ConfigurationError, match="--workers"):
        service(federation, "a", workers=workers)


def test_listeners_have_names_of_their_own(federation: Federation) -> None:
    """Metrics and reloads tell them apart by name, so there are no two of one name, and there is one."""
    with pytest.raises(ConfigurationError, match="one name"):
        service(federation, "a", "a")
    with pytest.raises(ConfigurationError, match="no listener"):
        service(federation)


def test_a_key_signs_a_log_that_is_kept(federation: Federation, tmp_path: Any) -> None:
    """An audit key without an audit log would make an operator believe in one."""
    with pytest.raises(ConfigurationError, match="--audit"):
        service(federation, "a", audit_key=tmp_path / "key")
