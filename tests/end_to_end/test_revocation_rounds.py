"""Revocation in a run of rounds, with real processes: updates, the aggregator itself, and what sites believe."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.audit import verify_audit_log
from pqfl_transport.client import FederatedClient
from pqfl_transport.errors import CertificateError, TransportError
from pqfl_transport.participant import RoundInfo
from tests.aggregator.test_service import configure, start
from tests.support.pki import Federation, make_federation
from tests.support.revoking import crl, crl_source, publish_crl
from tests.support.rounds import current_round, make_update, participant, put


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "federation", sites=("bank-a", "bank-b"))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew:
        yield crew


def configured(federation: Federation, folder: Path, *lines: str) -> Path:
    path = configure(federation, folder)
    text = path.read_text().replace("quorum = 2", "quorum = 1")
    path.write_text(text.replace("[model]", "\n".join((*lines, "[model]"))))
    return path


def hang_up(process: Process) -> None:
    psutil.Process(process.pid).send_signal(signal.SIGHUP)


def said(process: Process, event: str, **facts: object) -> dict[str, object]:
    return process.wait_for(
        lambda line: line.get("event") == event and all(line.get(key) == value for key, value in facts.items()), 20
    )


async def submit(federation: Federation, url: str, name: str) -> int:
    site = participant(federation, name)
    return (await put(url, make_update(await current_round(url, site), site)))[0]


def test_revoked_between_acceptance_and_aggregation(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """The update was good when it came and is in no average; the run ends without it, and says so."""
    with crl_source(crl(federation)) as source:
        lines = (f'crl_url = "{source.url}"', "crl_poll_seconds = 1")
        process, address = start(crew, configured(federation, tmp_path, *lines))
        assert asyncio.run(submit(federation, f"http://{address}", "bank-a")) == 201
        source.body = crl(federation, [federation.site("bank-a")], number=2)
        assert "dropped from the average" in str(said(process, "refusal", reason="revoked")["detail"])
        assert asyncio.run(submit(federation, f"http://{address}", "bank-b")) == 201
        assert said(process, "round", move="all_in")["updates"] == 1
        assert said(process, "model", version=1)
        process.end()
    verify_audit_log(tmp_path / "audit.jsonl", None)
    assert "dropped from the average" in (tmp_path / "audit.jsonl").read_text()


def test_an_aggregator_that_was_revoked_says_so_and_ends(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """While it runs, and when it is started again."""
    path = publish_crl(federation, tmp_path / "crl.pem")
    config = configured(federation, tmp_path, f'crl = "{path}"')
    process, _ = start(crew, config)
    publish_crl(federation, path, [federation.aggregator], number=2)
    hang_up(process)
    assert said(process, "stop", reason="revoked")
    with pytest.raises(TransportError, match="ended with status 1"):
        process.wait(20)
    for model in (tmp_path / "state" / "models").iterdir():
        model.unlink()
    again = crew.start("again", "-m", "pqfl", "aggregator", "--config", str(config))
    with pytest.raises(TransportError, match="the certificate of this aggregator itself"):
        again.wait(20)


def test_sites_take_no_round_and_no_model_of_a_revoked_aggregator(
    federation: Federation, tmp_path: Path, crew: Crew
) -> None:
    """A site with the list refuses what the aggregator still signs; a lower number does not bring it back."""
    process, address = start(crew, configured(federation, tmp_path))
    path = publish_crl(federation, tmp_path / "crl.pem")

    def client(name: str = "bank-a") -> FederatedClient:
        return FederatedClient(
            f"http://{address}", identity_dir=federation.site(name), roster_path=federation.roster, crl_path=path
        )

    async def join() -> RoundInfo:
        async with client() as site:
            info = await site.join()
            publish_crl(federation, path, [federation.aggregator], number=2)
            with pytest.raises(CertificateError, match="aggregator/main was revoked"):
                await site.fetch(info)
            with pytest.raises(CertificateError, match="aggregator/main was revoked"):
                await site.join()
            publish_crl(federation, path, number=1)
            with pytest.raises(CertificateError, match="aggregator/main was revoked"):
                await site.join()
            return info

    assert asyncio.run(join()).number == 1
    publish_crl(federation, path, [federation.aggregator], number=2)

    async def again() -> None:
        async with client("bank-b") as site:
            await site.run(lambda weights, _info: (weights, 1))

    with pytest.raises(CertificateError) as caught:
        asyncio.run(again())
    assert caught.value.reason == "revoked"
    process.end()


def test_the_authority_s_own_lists_are_what_is_read(federation: Federation, tmp_path: Path, crew: Crew) -> None:
    """`pqfl ca revoke` and `pqfl ca crl`, and the site's next update is refused by the aggregator."""
    authority = federation.authority
    authority.make_crl()
    process, address = start(crew, configured(federation, tmp_path, f'crl = "{authority.crl_path}"'))
    assert asyncio.run(submit(federation, f"http://{address}", "bank-b")) == 201
    authority.revoke("bank-a", "keyCompromise")
    authority.make_crl()
    hang_up(process)
    assert said(process, "reload", what="revocations", result="ok")
    # Everybody who is waited for is in, so the round is over without the revoked site.
    assert said(process, "model", version=1)
    process.end()
