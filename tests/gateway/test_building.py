"""From words to a configuration: files are read and checked, and can be read again."""

from pathlib import Path
from typing import Any

import pytest

from gateway.building import source_of
from gateway.config import Mode, Profile
from pqfl_transport.crypto import pkcs8
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError, PqflError
from pqfl_transport.pki.files import write_secret
from pqfl_transport.tls.config import Role
from pqfl_transport.tls.engine import TlsContext
from tests.pqfl_transport.policy.test_files import GOOD
from tests.support.advisories import publish
from tests.support.pki import Federation, make_federation, publish_roster


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def words(federation: Federation, **changes: Any) -> dict[str, Any]:
    """What a good server is told; ``None`` takes a word away."""
    folder = federation.gateway
    good = {
        "listen": "127.0.0.1:0", "target": ("127.0.0.1:1",), "cert": (folder / "tls.pem",),
        "key": (folder / "tls.key",), "cacert": folder / "ca.pem", "allow-all": True,
    }  # fmt: skip
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in (good | named).items() if value is not None}


def test_everything_said_arrives(federation: Federation) -> None:
    """Addresses, limits, times, mode, rules, policy."""
    said = words(
        federation, target=("127.0.0.1:1", "unix:/run/x"), mode="http", profile="plain",
        allow_path=("post /v1/fleet/*",), max_concurrent_conns=7, idle_timeout=5.0, resume=60.0,
        policy="pq-require-2026", status="127.0.0.1:0", workers=2, log_format="json", connect_timeout=3.0,
    )  # fmt: skip
    config = source_of(Role.SERVER, said, None).config
    (listener,) = config.listeners
    assert [str(target) for target in listener.targets] == ["127.0.0.1:1", "unix:/run/x"]
    assert (listener.mode, listener.http.profile) == (Mode.HTTP, Profile.PLAIN)
    assert listener.http.allow == (("POST", "/v1/fleet/*"),)
    assert (listener.limits.max_connections, listener.limits.idle_timeout_seconds) == (7, 5.0)
    assert (listener.tls.resume_seconds, listener.tls.policy.name) == (60, "pq-require-2026")
    assert (config.workers, config.log_format, listener.connect_timeout_seconds) == (2, "json", 3.0)


def test_reading_again_gives_the_same(federation: Federation) -> None:
    """So that a reload knows when nothing has changed."""
    source = source_of(Role.SERVER, words(federation), None)
    assert source.read_again() == source.config


def test_a_keystore_is_one_file(federation: Federation, tmp_path: Path) -> None:
    """Certificate and key behind each other; others must not read it."""
    store = tmp_path / "store.pem"
    store.write_bytes((federation.gateway / "tls.pem").read_bytes() + (federation.gateway / "tls.key").read_bytes())
    store.chmod(0o600)
    said = words(federation, cert=None, key=None, keystore=store)
    assert source_of(Role.SERVER, said, None).config.listeners[0].tls.own.name == federation.gateway_uri
    store.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        source_of(Role.SERVER, said, None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"listen": None}, "--listen"),
        ({"target": None}, "--target"),
        ({"cacert": None}, "--cacert"),
        ({"key": None}, "--key"),
        ({"cert": None, "key": None}, "--cert"),
        ({"listen": "somewhere"}, "--listen 'somewhere'"),
        ({"allow_all": None}, "whom it allows"),
        ({"policy": "pq-require-1999"}, "pq-require-1999"),
        ({"policy": "pq-require-2026", "pq": "prefer"}, "--policy"),
        ({"pq": "prefer"}, "trust store"),
        ({"level": "cnsa2"}, "tls.pem"),
        ({"allow_path": ("everything",)}, "--allow-path"),
        ({"mode": "http", "profile": "aggregator"}, "--roster"),
        ({"mode": "http", "profile": "flower", "workers": 2}, "--workers"),
        ({"crl": Path("/nowhere.crl")}, "/nowhere.crl"),
        ({"allow_ip": ("10.0.0.300",)}, "10.0.0.300"),
        ({"resume": 1e9}, "resumed"),
    ],
)
def test_mistakes_are_one_sentence(federation: Federation, changes: dict[str, Any], named: str) -> None:
    """Each names the flag or the file, before anything starts."""
    with pytest.raises(PqflError, match=r".") as caught:
        source_of(Role.SERVER, words(federation, **changes), None)
    assert named in str(caught.value)


def test_a_client_expects_somebody(federation: Federation) -> None:
    """Its rules are the ``verify`` ones, and the way out may be a proxy."""
    site = federation.site("bank-a")
    said = {
        "listen": "127.0.0.1:0", "target": ("hub.example.org:8443",), "cert": (site / "tls.pem",),
        "key": (site / "tls.key",), "cacert": site / "ca.pem", "verify-uri": (federation.gateway_uri,),
        "proxy": "socks5://proxy.example:1080",
    }  # fmt: skip
    (listener,) = source_of(Role.CLIENT, said, None).config.listeners
    assert listener.tls.allowed.uris == (federation.gateway_uri,)
    assert str(listener.proxy) == "socks5://proxy.example:1080"


def test_encrypted_keys_are_read_with_a_passphrase_file_again_and_again(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start and at each reload; a file that went missing or changed is a reload that fails."""
    monkeypatch.delenv("PQFL_PASSPHRASE", raising=False)
    phrase, key = tmp_path / "pass", tmp_path / "tls.key"
    write_secret(key, pkcs8.encrypt((federation.gateway / "tls.key").read_bytes(), b"correct horse battery"))
    write_secret(phrase, b"correct horse battery\n")
    source = source_of(Role.SERVER, words(federation, key=(key,), passphrase_file=phrase), None)
    assert source.config.passphrase_file == phrase
    TlsContext(source.config.listeners[0].tls)
    assert source.read_again() == source.config
    write_secret(phrase, b"another one", overwrite=True)
    with pytest.raises(ConfigurationError, match=str(key)) as wrong:
        source.read_again()
    assert wrong.value.reason == "wrong_passphrase"
    with pytest.raises(ConfigurationError, match="passphrase-file") as none:
        source_of(Role.SERVER, words(federation, key=(key,)), None)
    assert none.value.reason == "no_passphrase"
    monkeypatch.setenv("PQFL_PASSPHRASE", "correct horse battery")
    assert source_of(Role.SERVER, words(federation, key=(key,)), None).config.listeners == source.config.listeners


def test_every_listener_and_the_second_certificate_have_the_passphrase(federation: Federation, tmp_path: Path) -> None:
    """One file for the process: a listener table has no place for another."""
    phrase, config = tmp_path / "pass", tmp_path / "gateway.toml"
    write_secret(phrase, b"correct horse battery")
    good = f'passphrase-file = "{phrase}"\ntarget = "127.0.0.1:1"\nallow-all = true\n' + "".join(
        f'{name} = "{path}"\n'
        for name, path in (
            ("cert", federation.gateway / "tls.pem"), ("key", tmp_path / "tls.key"),
            ("cacert", federation.gateway / "ca.pem"),
        )
    )  # fmt: skip
    write_secret(
        tmp_path / "tls.key",
        pkcs8.encrypt((federation.gateway / "tls.key").read_bytes(), b"correct horse battery"),
    )
    listeners = '[[listener]]\nlisten = "127.0.0.1:0"\n[[listener]]\nlisten = "127.0.0.1:0"\n'
    config.write_text(good + listeners)
    assert len(source_of(Role.SERVER, {}, config).config.listeners) == 2
    config.write_text(good + listeners + f'passphrase-file = "{phrase}"\n')
    with pytest.raises(ConfigurationError, match="stands at the top"):
        source_of(Role.SERVER, {}, config)


def test_a_policy_may_be_a_file(federation: Federation, tmp_path: Path) -> None:
    """As a name is, instead of level and mode; without AES instructions ChaCha20 comes first."""
    (tmp_path / "own.toml").write_text(GOOD)
    own = source_of(Role.SERVER, words(federation, policy=f"{tmp_path}/own.toml"), None).config.listeners[0].tls.policy
    assert own.name == "cardio-2027"
    preferred = source_of(Role.SERVER, words(federation, no_aes=True), None).config.listeners[0].tls.policy
    assert preferred.tls_suites[0] == "TLS_CHACHA20_POLY1305_SHA256"
    with pytest.raises(ConfigurationError, match="leave --level and --pq away"):
        source_of(Role.SERVER, words(federation, policy=f"{tmp_path}/own.toml", level="high"), None)


def test_what_a_place_lacks_changes_the_order_and_is_said(federation: Federation) -> None:
    """A slow link and a processor budget put what suits them first and change no set; reading again is no change."""
    plain = source_of(Role.SERVER, words(federation), None).config.listeners[0]
    source = source_of(Role.SERVER, words(federation, **{"link-kbps": 64, "cpu-budget": 500}), None)
    found = source.config.listeners[0]
    assert set(found.tls.policy.groups) == set(plain.tls.policy.groups)
    assert found.tls.policy.groups[0] == "X25519MLKEM768"
    assert [("64 kbit/s" in found.preferences[0]), ("500 ms" in found.preferences[1])] == [True, True]
    assert source.read_again() == source.config
    assert plain.preferences == ()
    with pytest.raises(ConfigurationError, match="above 0"):
        source_of(Role.SERVER, words(federation, **{"link-kbps": 0}), None)


def test_advisories_never_go_back_whatever_else_is_broken(federation: Federation, tmp_path: Path) -> None:
    """What was verified once is remembered, also where the reload failed over something else."""
    path = publish(federation, tmp_path / "a.json", "SecP256r1MLKEM768", number=3)
    crl = tmp_path / "crl.pem"
    said = words(federation, advisory=path)
    source = source_of(Role.SERVER, said, None)
    (listener,) = source.config.listeners
    assert listener.tls.policy.name == "high-2026+advisory-3"
    assert source.read_again() == source.config
    third = path.read_bytes()
    publish(federation, path, "SecP256r1MLKEM768", "ChaCha20-Poly1305", number=4)
    said["crl"] = crl
    with pytest.raises(ConfigurationError, match="--crl"):
        source.read_again()
    del said["crl"]
    (tmp_path / "a.json.seen").unlink()
    path.write_bytes(third)
    with pytest.raises(MessageError, match="older than number 4"):
        source.read_again()


def test_a_roster_never_goes_back_not_over_a_restart_either(federation: Federation, tmp_path: Path) -> None:
    """Another source is what a restart makes; the number is kept beside the file or where one is told."""
    path = publish_roster(federation, tmp_path / "roster.json", number=8)
    said = words(federation, mode="http", profile="aggregator", roster=path)
    source = source_of(Role.SERVER, said, None)
    assert source.config.listeners[0].http.roster is source.read_again().listeners[0].http.roster
    publish_roster(federation, path, number=7)
    for read in (source.read_again, lambda: source_of(Role.SERVER, said, None)):
        with pytest.raises(MessageError, match="number 7 is older than number 8") as caught:
            read()
        assert caught.value.reason == "stale_roster"
    source_of(Role.SERVER, said | {"roster-state": tmp_path / "state"}, None)
    assert (tmp_path / "state").exists()


def test_what_is_wrong_with_the_roster_names_the_flag(federation: Federation, tmp_path: Path) -> None:
    """The file, or the place where its number has to be kept."""
    path = publish_roster(federation, tmp_path / "roster.json")
    said = words(federation, mode="http", profile="aggregator", roster=path)
    for more, named in (
        ({"roster": tmp_path / "none"}, "--roster: .*no such file"),
        ({"roster-state": tmp_path / "no" / "state"}, "--roster-state: .*cannot remember which roster was seen"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            source_of(Role.SERVER, said | more, None)
    del said["roster"]
    with pytest.raises(ConfigurationError, match="--roster-state needs --roster"):
        source_of(Role.SERVER, said | {"roster-state": tmp_path / "state"}, None)


def test_an_advisory_that_leaves_nothing_is_a_refusal_by_policy(federation: Federation, tmp_path: Path) -> None:
    """A service does not start under it."""
    said = words(federation, advisory=publish(federation, tmp_path / "a.json", "ML-DSA-65"))
    with pytest.raises(PolicyError) as caught:
        source_of(Role.SERVER, said, None)
    assert (caught.value.reason, caught.value.exit_status) == ("withdrawn", 3)


def test_what_was_seen_can_be_kept_elsewhere(federation: Federation, tmp_path: Path) -> None:
    """Where the advisory lies may not be writable."""
    said = words(federation, advisory=publish(federation, tmp_path / "a.json"), advisory_state=tmp_path / "state")
    source_of(Role.SERVER, said, None)
    assert (tmp_path / "state").exists()
    assert not (tmp_path / "a.json.seen").exists()
    with pytest.raises(ConfigurationError, match="--advisory-state needs --advisory"):
        source_of(Role.SERVER, words(federation, advisory_state=tmp_path / "state"), None)
