"""Keys of a QKD link between two hubs, each with a key manager of its own: real processes, both directions."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pqfl.demo.processes import Crew, Process
from pqfl_transport.client import BlockingFederatedClient
from tests.support import classical
from tests.support.aggregators import start_aggregator, write_config
from tests.support.keymanagers import (
    ENDS,
    LINK,
    STATUS,
    Network,
    classical_link,
    events,
    make_network,
    other,
    serve_classical,
)
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL
from tests.support.sidecars import start_client, start_server


@dataclass(frozen=True, slots=True)
class Hubs:
    """Two aggregation servers of one federation, ``north`` and ``south``, and their key managers' network."""

    federation: Federation
    network: Network
    folder: Path

    def uri(self, end: str) -> str:
        return f"spiffe://fed/aggregator/{end}"

    def identity(self, end: str) -> Path:
        return self.folder / end

    def keys(self, end: str, mode: str = "require", **link: Any) -> Path:
        """The file of key sources of one end, with a rule for the other."""
        path = self.folder / f"{end}-{mode}.toml"
        path.write_text(
            f'[used]\nfile = "{end}-used.db"\n{self.network.section(end, **link)}'
            f'[[peer]]\nid = "{self.uri(other(end))}"\nmode = "{mode}"\nkeys = ["qkd:{LINK}"]\n'
        )
        return path

    def seal(self, end: str, target: Path, mode: str = "require", **link: Any) -> subprocess.CompletedProcess[str]:
        """Seal the weights of one hub to the other."""
        far = other(end)
        return pqfl(
            "seal", "--json", "--to", self.identity(far) / "receiving.pub", "--identity", self.identity(end),
            "--keys", self.keys(end, mode, **link), "--peer", self.uri(far), self.folder / "w.npz", target,
        )  # fmt: skip

    def open(self, end: str, source: Path, mode: str = "require", **link: Any) -> subprocess.CompletedProcess[str]:
        """Open at one hub what the other sealed."""
        return pqfl(
            "open", "--json", "--key", self.identity(end) / "receiving.key", "--from",
            self.identity(other(end)) / "signing.pem", "--keys", self.keys(end, mode, **link), source,
            source.with_suffix(".npz"),
        )  # fmt: skip


def pqfl(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pqfl", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Hubs:
    folder = tmp_path_factory.mktemp("hubs")
    federation = make_federation(folder / "federation", sites=())
    for end in ENDS:
        federation.authority.issue(profile="aggregator", name=end, out=folder / end)
    np.savez(folder / "w.npz", a=np.arange(12.0))
    return Hubs(federation, make_network(folder / "qkd"), folder)


@pytest.fixture(scope="module")
def managers(hubs: Hubs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Process]]:
    with Crew(tmp_path_factory.mktemp("logs")) as crew:
        yield hubs.network.start_both(crew)


@pytest.mark.parametrize("end", ENDS)
def test_one_hub_seals_to_the_other(hubs: Hubs, managers: dict[str, Process], tmp_path: Path, end: str) -> None:
    """Both ways: the sender's manager gives a key, the reader's gives the same one for its id, once."""
    sealed, far = tmp_path / "w.pqfl", other(end)
    done = hubs.seal(end, sealed)
    assert done.returncode == 0, done.stderr
    (key_id,) = json.loads(done.stdout)["extra_keys"]
    assert key_id.startswith(f"qkd:{LINK}:")
    done = hubs.open(far, sealed)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["extra_keys"] == [key_id]
    with np.load(sealed.with_suffix(".npz")) as found:
        assert (found["a"] == np.arange(12.0)).all()
    serial = key_id.rpartition(":")[2]
    assert [event["key_ids"] for event in events(managers[end], "enc_keys")][-1] == [serial]
    assert [event["key_ids"] for event in events(managers[far], "dec_keys")][-1] == [serial]
    again = hubs.open(far, sealed)
    assert again.returncode == 1
    assert "our key manager has no key qkd:north-south" in again.stderr


def test_a_forged_envelope_causes_no_request(hubs: Hubs, managers: dict[str, Process], tmp_path: Path) -> None:
    """One bit of signature, wrapped key or header: the manager never hears of it, and the key is still there."""
    sealed = tmp_path / "w.pqfl"
    done = hubs.seal("north", sealed)
    assert done.returncode == 0, done.stderr
    before = len(events(managers["south"], "dec_keys"))
    good = sealed.read_bytes()
    for at in (good.index(b"north-south"), 2_000, 4_500):
        forged = tmp_path / f"forged-{at}.pqfl"
        forged.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert hubs.open("south", forged).returncode == 1
    assert len(events(managers["south"], "dec_keys")) == before
    assert hubs.open("south", sealed).returncode == 0
    assert len(events(managers["south"], "dec_keys")) == before + 1


@pytest.mark.usefixtures("managers")
def test_key_managers_can_be_asked_how_they_are(hubs: Hubs) -> None:
    """One that answers gives its status; one that does not is named, and the exit status says so."""
    done = pqfl("key", "check", "--json", "--keys", hubs.keys("north"))
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)[f"qkd:{LINK}"]
    assert (status["source_kme_id"], status["slave_sae_id"]) == ("km-north", "south")
    done = pqfl("key", "check", "--keys", hubs.keys("north", url="https://127.0.0.1:1"))
    assert (done.returncode, "https://127.0.0.1:1" in done.stdout) == (1, True)
    assert "1 of 1 key managers do not answer" in done.stderr


@pytest.mark.usefixtures("managers")
def test_an_envelope_without_a_key_is_refused_where_one_is_required(hubs: Hubs, tmp_path: Path) -> None:
    """By policy, with its exit status; where keys are preferred it opens, and that is said."""
    plain = tmp_path / "plain.pqfl"
    done = pqfl(
        "seal", "--to", hubs.identity("south") / "receiving.pub", "--identity", hubs.identity("north"),
        hubs.folder / "w.npz", plain,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = hubs.open("south", plain)
    assert (done.returncode, "has to have a key of qkd:north-south" in done.stderr) == (3, True)
    assert not plain.with_suffix(".npz").exists()
    done = hubs.open("south", plain, "prefer")
    assert (done.returncode, "goes on without a key of qkd:north-south" in done.stderr) == (0, True)


def test_a_classical_manager_through_a_post_quantum_tunnel(hubs: Hubs, tmp_path: Path) -> None:
    """Gateway beside the manager, sidecar beside us: the manager's own TLS passes inside, and none of it is bare."""
    root = classical.make_root("vendor root")
    files = classical.write_classical(tmp_path / "old", root, *classical.make_leaf(root, dns=("km.example",)))
    federation = make_federation(tmp_path / "federation", sites=("bank-a",))
    (tmp_path / "logs").mkdir()

    with Crew(tmp_path / "logs") as crew:

        def ask(url: str) -> int:
            gateway = start_server(crew, federation, url.replace("https://localhost", "127.0.0.1"))
            sidecar = start_client(crew, federation, gateway.target)
            link = classical_link(hubs.network, files, f"https://{sidecar.target}", server_name="km.example")
            return link.status().key_size

        assert asyncio.run(serve_classical(files, ask)) == STATUS["key_size"]


def test_a_manager_that_is_down(hubs: Hubs, tmp_path: Path) -> None:
    """`require` seals nothing, `prefer` goes on and says so; what names a key opens only once the manager is back."""
    (tmp_path / "logs").mkdir()
    network = make_network(tmp_path / "qkd")
    down = Hubs(hubs.federation, network, hubs.folder)
    refused, plain, sealed = (tmp_path / name for name in ("refused.pqfl", "plain.pqfl", "sealed.pqfl"))
    done = down.seal("north", refused)
    assert (done.returncode, "nothing is sealed" in done.stderr) == (3, True)
    assert not refused.exists()
    done = down.seal("north", plain, "prefer")
    assert (done.returncode, "goes on without a key of qkd:north-south" in done.stderr) == (0, True)
    assert json.loads(done.stdout)["extra_keys"] == []
    with Crew(tmp_path / "logs") as crew:
        network.start_both(crew)
        assert down.seal("north", sealed).returncode == 0
        for mode in ("require", "prefer"):
            # The reader's manager is not where its file says: nothing listens at port 1.
            done = down.open("south", sealed, mode, url="https://127.0.0.1:1")
            assert (done.returncode, "cannot be had now" in done.stderr) == (1, True)
            assert not sealed.with_suffix(".npz").exists()
        assert down.open("south", sealed).returncode == 0


@pytest.mark.usefixtures("managers")
def test_a_round_whose_updates_need_a_key_of_the_link(hubs: Hubs, tmp_path: Path) -> None:
    """A site behind one manager, `pqfl aggregator` behind the other: the log names the key of the update it took."""
    federation = make_federation(tmp_path / "federation", sites=("bank-a",))
    for end, peer in (("south", federation.site_uri("bank-a")), ("north", federation.aggregator_uri)):
        (tmp_path / f"{end}.toml").write_text(
            f'[used]\nfile = "{end}-used.db"\n{hubs.network.section(end)}'
            f'[[peer]]\nid = "{peer}"\nenvelopes = ["update"]\nmode = "require"\nkeys = ["qkd:{LINK}"]\n'
        )
    config = write_config(federation, tmp_path, listen="127.0.0.1:0", model=MODEL, more='[keys]\nfile = "south.toml"\n')
    (tmp_path / "logs").mkdir()
    with Crew(tmp_path / "logs") as crew:
        hub, address = start_aggregator(crew, config)
        with BlockingFederatedClient(
            f"http://{address}", identity_dir=federation.site("bank-a"), roster_path=federation.roster,
            retry_seconds=20, keys_path=tmp_path / "north.toml",
        ) as site:  # fmt: skip
            final = site.run(lambda weights, _round: ({name: array + 1 for name, array in weights.items()}, 5))
        update = hub.wait_for(lambda event: event.get("event") == "update", 20)
    assert [key_id.startswith(f"qkd:{LINK}:") for key_id in update["extra_keys"]] == [True]
    assert isinstance(final, dict)
    assert all(np.allclose(final[name], array + 1) for name, array in MODEL.items())
