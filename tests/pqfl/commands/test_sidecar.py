"""`pqfl server` and `pqfl client`: the flags that operators know arrive as the configuration."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.config import Source
from pqfl.commands import sidecar
from pqfl.commands.sidecar import client, server
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.tls.config import Role
from tests.support.pki import Federation, make_federation
from tests.support.revoking import crl, crl_source
from tests.support.sidecars import identity


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """What a command came to, instead of serving it."""
    found: list[Source] = []
    monkeypatch.setattr(sidecar, "serve", found.append)
    return found


def invoke(command: Any, *words: str) -> Any:
    return CliRunner().invoke(command, list(words), catch_exceptions=False)


def test_flags_of_a_server_arrive(federation: Federation, served: list[Source], tmp_path: Path) -> None:
    """Addresses, rules, level, protocols, times, files."""
    result = invoke(
        server, "--listen", "0.0.0.0:8443", "--target", "unix:/run/fl.sock", *identity(federation.gateway),
        "--allow-uri", "spiffe://fed/site/bank-a", "--allow-dns", "bank-a.example",
        "--alpn", "h2", "--alpn", "http/1.1",
        "--status", "127.0.0.1:9000", "--audit", str(tmp_path / "audit.jsonl"), "--shutdown-timeout", "7",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    config = served[0].config
    (listener,) = config.listeners
    assert (listener.role, str(listener.listen)) == (Role.SERVER, "0.0.0.0:8443")
    assert [str(target) for target in listener.targets] == ["unix:/run/fl.sock"]
    assert listener.tls.allowed.uris == ("spiffe://fed/site/bank-a",)
    assert listener.tls.allowed.dns == ("bank-a.example",)
    assert listener.tls.alpn == ("h2", "http/1.1")
    assert listener.tls.policy.name == "high-2026"
    assert (str(config.status), config.shutdown_timeout_seconds) == ("127.0.0.1:9000", 7)


def test_flags_of_a_client_arrive(federation: Federation, served: list[Source]) -> None:
    """Whom to expect, and which name to ask for."""
    result = invoke(
        client, "--listen", "127.0.0.1:8080", "--target", "hub.example.org:8443", *identity(federation.site("bank-a")),
        "--verify-uri", federation.gateway_uri, "--override-server-name", "other.example.org",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (listener,) = served[0].config.listeners
    assert listener.role is Role.CLIENT
    assert listener.tls.allowed.uris == (federation.gateway_uri,)
    assert listener.tls.server_name == "other.example.org"


def test_plain_sides_leave_the_machine_only_when_told_to(federation: Federation, served: list[Source]) -> None:
    """``--unsafe-target`` and ``--unsafe-listen`` say it aloud."""
    words = ["--listen", "127.0.0.1:0", "--target", "10.0.0.1:80", *identity(federation.gateway), "--allow-all"]
    with pytest.raises(ConfigurationError, match="--unsafe-target"):
        invoke(server, *words)
    assert invoke(server, *words, "--unsafe-target").exit_code == 0
    assert len(served) == 1


@pytest.mark.parametrize("missing", ["--listen", "--target", "--cert", "--key", "--cacert"])
def test_what_is_missing_is_named(federation: Federation, missing: str) -> None:
    """Usage errors name the option and end with 2."""
    words = ["--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", *identity(federation.gateway), "--allow-all"]
    position = words.index(missing)
    with pytest.raises(ConfigurationError, match=missing) as caught:
        invoke(server, *words[:position], *words[position + 2 :])
    assert caught.value.exit_status == 2


def test_a_configuration_can_be_checked_without_starting(
    federation: Federation, served: list[Source], tmp_path: Path
) -> None:
    """From a file, with what each listener would do; a broken one is refused as at a start."""
    folder = federation.gateway
    file = tmp_path / "pqfl.toml"
    file.write_text(
        f'cert = "{folder}/tls.pem"\nkey = "{folder}/tls.key"\ncacert = "{folder}/ca.pem"\nallow-all = true\n'
        '[[listener]]\nname = "a"\nlisten = "127.0.0.1:1"\ntarget = "127.0.0.1:2"\n'
        '[[listener]]\nname = "b"\nlisten = "127.0.0.1:3"\ntarget = ["127.0.0.1:4", "127.0.0.1:5"]\n'
    )
    result = invoke(server, "--config", str(file), "--config-check")
    assert result.exit_code == 0
    assert "a: server 127.0.0.1:1 to 127.0.0.1:2, policy high-2026" in result.output
    assert "the configuration is good" in result.output
    with pytest.raises(ConfigurationError, match="nowhere"):
        invoke(server, "--config", str(file), "--cacert", "/nowhere", "--config-check")
    other = federation.site("bank-a") / "tls.key"
    with pytest.raises(ConfigurationError, match="not the private key"):
        invoke(server, "--config", str(file), "--key", str(other), "--config-check")
    assert served == []


@pytest.mark.parametrize("command", [server, client])
def test_a_check_asks_nobody(federation: Federation, tmp_path: Path, command: Any) -> None:
    """A revocation list that has still to be fetched is said and not fetched; one that was kept is read."""
    folder = federation.gateway if command is server else federation.site("bank-a")
    kept = tmp_path / "crl.pem"
    words = ["--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", *identity(folder), "--config-check"]
    words += ["--crl", str(kept), *(["--allow-all"] if command is server else ["--verify-uri", federation.gateway_uri])]
    with crl_source(crl(federation)) as source:
        result = invoke(command, *words, "--crl-url", source.url)
        assert result.exit_code == 0
        assert f"no revocation list at {kept} yet" in result.output
        kept.write_bytes(b"no list")
        with pytest.raises(ConfigurationError, match="--crl"):
            invoke(command, *words, "--crl-url", source.url)
        kept.write_bytes(crl(federation))
        assert "no revocation list" not in invoke(command, *words, "--crl-url", source.url).output
        assert source.asked == 0
    kept.unlink()
    with pytest.raises(ConfigurationError, match="no such file"):
        invoke(command, *words)


def test_without_a_rule_a_server_is_refused(federation: Federation, served: list[Source]) -> None:
    """Nobody is let in by forgetting a flag."""
    with pytest.raises(ConfigurationError, match="whom it allows"):
        invoke(server, "--listen", "127.0.0.1:0", "--target", "127.0.0.1:1", *identity(federation.gateway))
    assert served == []


@pytest.mark.parametrize("command", [server, client])
def test_help_explains_every_flag(command: Any) -> None:
    """No flag is without its sentence."""
    text = invoke(command, "--help").output
    for flag in ("--listen", "--target", "--cert", "--key", "--cacert", "--level", "--status", "--audit"):
        assert flag in text
