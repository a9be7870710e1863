import tomllib
from pathlib import Path

import pytest

from pqfl_transport import joining
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.errors import CertificateError, ConfigurationError, MessageError, PeerError, TransportError
from pqfl_transport.joining import Joiner
from pqfl_transport.pki import keystore
from pqfl_transport.pki.spiffe import Role, SpiffeId
from pqfl_transport.tls.config import AllowedPeers, TlsConfig, TlsIdentity
from pqfl_transport.tls.config import Role as End
from tests.support.enrolment import make_token, serving
from tests.support.pki import Federation, make_federation, other_authority

FILES = {"tls.pem", "tls.key", "ca.pem", "signing.pem", "signing.key", "receiving.pub", "receiving.key", "sidecar.toml",
         "roster.json"}  # fmt: skip


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north",))


def left_over(out: Path) -> list[str]:
    return [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.joining")]


def test_a_site_joins(federation: Federation, tmp_path: Path) -> None:
    """A token becomes a whole identity folder with keys made here, certified there, and a sidecar's configuration."""
    out = tmp_path / "west"
    with serving(federation, gateway="hub.example:9443", gateway_id=federation.gateway_uri) as service:
        joined = service.joiner(service.token("west"), out).join()
    assert {path.name for path in out.iterdir()} == FILES
    assert all((out / name).stat().st_mode & 0o777 == 0o600 for name in FILES if name.endswith(".key"))
    signer = keystore.load_signing_identity(out)
    assert str(signer.id) == "spiffe://fed/site/west"
    assert signer.key.verifying_key.fingerprint == joined.signing_fingerprint
    TlsConfig(End.CLIENT, TlsIdentity.load(out / "tls.pem", out / "tls.key", out / "ca.pem"),
              federation.authority.policy, AllowedPeers(uris=(federation.gateway_uri,)))  # fmt: skip
    assert (
        ReceivingKeys.from_pem((out / "receiving.key").read_bytes()).newest.fingerprint == joined.receiving_fingerprint
    )
    config = tomllib.loads((out / "sidecar.toml").read_text())
    assert (config["target"], config["verify-uri"]) == ("hub.example:9443", federation.gateway_uri)
    assert config["renew"] == str(service.address)
    assert left_over(out) == []


def test_who_joins_knows_who_was_revoked_and_where_to_hear_of_it(federation: Federation, tmp_path: Path) -> None:
    """The lists of the service are in the folder; what is no list of this federation is left out, and nothing said."""
    stranger = make_federation(tmp_path / "other", sites=()).authority
    stranger.make_crl()
    with serving(federation) as service:
        path = federation.authority.crl_path
        path.write_bytes(stranger.crl_path.read_bytes())
        service.joiner(service.token("east"), tmp_path / "east").join()
        assert not (tmp_path / "east" / "crl.pem").exists()
        assert "crl" not in tomllib.loads((tmp_path / "east" / "sidecar.toml").read_text())
        federation.authority.make_crl()
        service.joiner(service.token("west"), tmp_path / "west").join()
    out = tmp_path / "west"
    assert (out / "crl.pem").read_bytes() == path.read_bytes()
    config = tomllib.loads((out / "sidecar.toml").read_text())
    assert (config["crl"], config["crl-url"]) == (str(out / "crl.pem"), f"https://{service.address}/v1/crl")


def test_a_token_is_good_for_one_site_once(federation: Federation, tmp_path: Path) -> None:
    """Somebody else with the same token is refused, and his keys do not lie about."""
    with serving(federation) as service:
        token = service.token("west")
        service.joiner(token, tmp_path / "west").join()
        with pytest.raises(MessageError) as caught:
            service.joiner(token, tmp_path / "thief").join()
        assert caught.value.reason == "token_used"
        assert left_over(tmp_path / "thief") == []
        assert not (tmp_path / "thief").exists()


def test_an_expired_token_is_refused_here_and_there(federation: Federation, tmp_path: Path) -> None:
    """The site does not try it; a site with a slow clock is told by the service."""
    with serving(federation) as service:
        token = make_token(federation, "west", seconds=10, now=1_000)
        with pytest.raises(MessageError) as caught:
            service.joiner(token, tmp_path / "west").join()
        assert caught.value.reason == "token_expired"
        assert service.requests == []
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(joining.JoinToken, "require_current", lambda *_: None)
            with pytest.raises(MessageError) as caught:
                service.joiner(token, tmp_path / "west").join()
        assert caught.value.reason == "token_expired"
        assert service.requests == ["POST /v1/join"]
        assert left_over(tmp_path / "west") == []


def test_a_site_posing_as_the_service_gets_nothing(federation: Federation, tmp_path: Path) -> None:
    """A gateway's certificate, and that of an authority with the same name, are refused before anything is sent."""
    stranger = other_authority(federation, tmp_path / "stranger", "gateway")
    impostors = {federation.gateway: "wrong_root", stranger: "wrong_root"}
    for folder, reason in impostors.items():
        identity = TlsIdentity.load(folder / "tls.pem", folder / "tls.key", folder / "ca.pem")
        for strangers in (False, True):
            tls = TlsConfig(
                End.SERVER, identity, federation.authority.policy, AllowedPeers(any_of_federation=True),
                admits_strangers=strangers,
            )  # fmt: skip
            with serving(federation, tls=tls) as service:
                with pytest.raises((CertificateError, PeerError)) as caught:
                    service.joiner(service.token("west"), tmp_path / "west").join()
                assert caught.value.reason == ("not_allowed" if strangers and folder == federation.gateway else reason)
                assert service.requests == []
            assert left_over(tmp_path / "west") == []


def test_an_interrupted_join_goes_on(federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the answer came, or before it was sent, the same command ends with one set of certificates."""
    out = tmp_path / "west"
    with serving(federation) as service:
        joiner = service.joiner(service.token("west"), out)
        with monkeypatch.context() as patched:
            patched.setattr(joining.Joiner, "_require_good", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                joiner.join()
        assert len(left_over(out)) == 1
        joined = joiner.join()
        assert service.reports.names().count("joined") == 1
    assert keystore.load_certificate(out / "tls.pem") == joined.tls
    assert left_over(out) == []


def test_a_join_that_was_cut_off_at_its_very_end_goes_on(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder is there and its request still is, the same command finishes it; another token harms nothing."""
    out = tmp_path / "west"
    with serving(federation) as service:
        joiner, other = service.joiner(service.token("west"), out), service.joiner(service.token("east"), out)
        with monkeypatch.context() as patched:
            # The last step: the request is removed.
            patched.setattr(joining.Joiner, "_forget_request", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                joiner.join()
        assert (out / "request.json").exists()
        keys = [(out / name).read_bytes() for name in ("tls.key", "signing.key", "receiving.key")]
        with pytest.raises(MessageError) as caught:
            other.join()
        assert caught.value.reason == "wrong_name"
        joined = joiner.join()
        assert [(out / name).read_bytes() for name in ("tls.key", "signing.key", "receiving.key")] == keys
        with pytest.raises(ConfigurationError) as done:
            joiner.join()
        assert done.value.reason == "exists"
        assert service.reports.names().count("joined") == 1
    assert {path.name for path in out.iterdir()} == FILES
    assert joined.roster is not None


def test_what_earlier_attempts_left_goes_with_the_last(federation: Federation, tmp_path: Path) -> None:
    """Torn keys are not taken along, and the keys of an attempt with another token are removed."""
    out = tmp_path / "west"
    with serving(federation) as service:
        abandoned = service.joiner(service.token("west"), out)
        abandoned._stage.mkdir()
        (abandoned._stage / "tls.key").write_bytes(b"a key")
        joiner = service.joiner(service.token("west"), out)
        joiner._stage.mkdir()
        (joiner._stage / ".tls.key.12345678.part").write_bytes(b"half a key")
        joiner.join()
    assert {path.name for path in out.iterdir()} == FILES
    assert left_over(out) == []


def test_joining_does_not_depend_on_a_roster(federation: Federation, tmp_path: Path) -> None:
    """Where there is none, or none that the root has signed, the folder lacks it and the reason is said."""
    with serving(federation) as service:
        federation.roster.write_bytes(federation.roster.read_bytes().replace(b"fed", b"def"))
        joined = service.joiner(service.token("west"), tmp_path / "west").join()
    assert joined.roster is None
    assert joined.no_roster_because
    assert {path.name for path in (tmp_path / "west").iterdir()} == FILES - {"roster.json"}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_somebody_has_to_approve(federation: Federation, tmp_path: Path) -> None:
    """Until then the command says so and keeps its keys; after that the same command ends well."""
    out = tmp_path / "west"
    with serving(federation, by_hand=True) as service:
        joiner = service.joiner(service.token("west"), out)
        for _ in range(2):
            with pytest.raises(TransportError) as caught:
                joiner.join()
            assert caught.value.reason == "pending"
        service.desk.enrolments.decide(joiner.token.party, approve=True)
        joiner.join()
        assert service.reports.names() == ["join_pending", "joined"]
    assert {path.name for path in out.iterdir()} == FILES


def test_who_is_denied_does_not_come_in(federation: Federation, tmp_path: Path) -> None:
    """A denied site is told so each time, and its keys are gone."""
    with serving(federation) as service:
        joiner = service.joiner(service.token("west", by_hand=True), tmp_path / "west")
        with pytest.raises(TransportError):
            joiner.join()
        service.desk.enrolments.decide(joiner.token.party, approve=False)
        with pytest.raises(MessageError) as caught:
            joiner.join()
        assert caught.value.reason == "denied"
        assert left_over(tmp_path / "west") == []


def test_a_folder_that_holds_something_is_left_alone(federation: Federation, tmp_path: Path) -> None:
    """Nothing is sent and nothing overwritten."""
    with serving(federation) as service:
        joiner = service.joiner(service.token("west"), federation.site("north"))
        with pytest.raises(ConfigurationError) as caught:
            joiner.join()
        assert caught.value.reason == "exists"
        assert service.requests == []
    assert tmp_path.exists()


def test_only_who_dials_joins_with_a_token(federation: Federation, tmp_path: Path) -> None:
    """A token for a gateway is refused: gateways are issued."""
    with serving(federation) as service:
        token = service.token("west")
        wrong = joining.JoinToken(
            token.level, token.root_sha256, token.service, SpiffeId("fed", Role.GATEWAY, "west"), token.expires_at,
            token.secret,
        )  # fmt: skip
        with pytest.raises(ConfigurationError) as caught:
            Joiner(wrong, service.address, tmp_path / "west").join()
    assert caught.value.reason == "bad_token"
