"""`add-site.sh` and `revoke-site.sh`: a site comes in with a token and the root's word, and is thrown out again."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pqfl.demo.processes import Crew
from pqfl_transport.errors import CertificateError
from pqfl_transport.pki import chain, keystore
from pqfl_transport.pki.revocation import open_crls
from pqfl_transport.pki.roster import Roster
from tests.support.commands import good
from tests.support.pki import Federation, make_federation
from tests.support.scripts import run_script

_START_SECONDS = 30.0


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=("bank-a", "bank-b"))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as processes:
        yield processes


def roster(federation: Federation, path: Path | None = None) -> Roster:
    roots = keystore.root_keys(keystore.load_anchors(federation.ca_pem))
    return keystore.load_roster(path or federation.roster, roots, federation=federation.name)


def test_a_site_is_invited_joins_and_is_admitted(federation: Federation, crew: Crew, tmp_path: Path) -> None:
    """Token, join, and a roster that the root signs after somebody said yes: the new site's key is in it."""
    service = crew.start(
        "service", "-m", "pqfl", "ca", "serve", "--dir", str(federation.ca), "--listen", "127.0.0.1:0",
        "--gateway", "127.0.0.1:9", "--log-format", "json",
    )  # fmt: skip
    hub = service.wait_for(lambda line: line.get("event") == "listening", _START_SECONDS)["address"]
    token, site = tmp_path / "token", tmp_path / "bank-c"
    done = run_script("add-site.sh", "invite", federation.ca, "bank-c", hub, token)
    assert done.returncode == 0, done.stderr
    assert f"pqfl join --token-file token --hub {hub} --out bank-c" in done.stdout
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text().strip() not in done.stdout + done.stderr
    good("join", "--token-file", token, "--hub", hub, "--out", site)
    uri = federation.site_uri("bank-c")
    refused = run_script("add-site.sh", "admit", federation.ca, "bank-c", tmp_path / "roster.json", answer="n\n")
    assert refused.returncode != 0
    assert f"+ {uri}" in refused.stdout
    assert uri not in roster(federation).parties
    done = run_script("add-site.sh", "admit", federation.ca, "bank-c", tmp_path / "roster.json", answer="y\n")
    assert done.returncode == 0, done.stderr
    signer = keystore.load_signing_identity(site)
    assert roster(federation, tmp_path / "roster.json").party(uri).signing_key == signer.key.verifying_key
    assert roster(federation).number == 5


def test_a_site_is_revoked_and_leaves_the_roster(federation: Federation, tmp_path: Path) -> None:
    """Both its certificates are on the list and the next roster has no place for it; others notice nothing."""
    out = tmp_path / "out"
    before = roster(federation)
    done = run_script("revoke-site.sh", federation.ca, "bank-a", "keyCompromise", out, PQFL_YES="1")
    assert done.returncode == 0, done.stderr
    anchors, now = keystore.load_anchors(federation.ca_pem), datetime.now(UTC)
    lists = open_crls((out / "crl.pem").read_bytes(), anchors, policy=federation.authority.policy, now=now)
    for name in ("tls.pem", "signing.pem"):
        (theirs,) = chain.load_certificates((federation.site("bank-a") / name).read_bytes())
        (others,) = chain.load_certificates((federation.site("bank-b") / name).read_bytes())
        with pytest.raises(CertificateError) as caught:
            lists.check(theirs, now)
        assert caught.value.reason == "revoked"
        lists.check(others, now)
    after = roster(federation, out / "roster.json")
    assert after.number == before.number + 1
    assert set(before.parties) - set(after.parties) == {federation.site_uri("bank-a")}


def test_without_the_roots_key_the_list_is_signed_all_the_same(federation: Federation, tmp_path: Path) -> None:
    """Who leaks a key on a Sunday is out at once; the roster follows when the root's key is there, which is said."""
    (federation.ca / "root.key").rename(tmp_path / "root.key")
    before = roster(federation).number
    done = run_script("revoke-site.sh", federation.ca, "bank-a", "cessationOfOperation")
    assert done.returncode == 0, done.stderr
    assert "bank-a keeps its place in the roster until root.key is back" in done.stdout
    assert roster(federation).number == before
    anchors, now = keystore.load_anchors(federation.ca_pem), datetime.now(UTC)
    lists = open_crls((federation.ca / "crl.pem").read_bytes(), anchors, policy=federation.authority.policy, now=now)
    assert len(lists.lists[0].revoked) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add-site.sh", "invite", "{ca}", "bank-a", "hub:1", "{new}"), "already"),
        (("add-site.sh", "invite", "{ca}", "Bank", "hub:1", "{new}"), "'Bank'"),
        (("add-site.sh", "invite", "{ca}", "bank-c", "hub:1", "{old}"), "exists already"),
        (("add-site.sh", "admit", "{ca}", "bank-z"), "spiffe://fed/site/bank-z"),
        (("revoke-site.sh", "{ca}", "bank-z", "keyCompromise"), "bank-z"),
        (("revoke-site.sh", "{ca}", "bank-a", "because"), "because"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_fails_changes_nothing(federation: Federation, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """The command's own error and status come through, and neither file nor roster is another one afterwards."""
    (tmp_path / "old").write_text("precious")
    places = {"ca": federation.ca, "new": tmp_path / "new", "old": tmp_path / "old"}
    done = run_script(words[0], *(word.format_map(places) for word in words[1:]), PQFL_YES="1")
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old").read_text() == "precious"
    assert set(roster(federation).parties) == {
        federation.aggregator_uri, federation.site_uri("bank-a"), federation.site_uri("bank-b")
    }  # fmt: skip


@pytest.mark.parametrize("script", ["add-site.sh", "revoke-site.sh"])
def test_usage(script: str) -> None:
    """Asked for help, or called with too little, each shows how it is called."""
    for arguments, status in ((("--help",), 0), ((), 2), (("ca",), 2)):
        done = run_script(script, *arguments)
        assert done.returncode == status
        assert f"Usage: {script} " in (done.stderr if status else done.stdout)
