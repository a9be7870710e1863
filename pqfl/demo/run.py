"""The demonstration: starts every process, follows the rounds, measures, reports, ends every process."""

import json
import resource
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from pqfl.demo import hospitals, model
from pqfl.demo.federation import FEDERATION, Folder, Hospital, set_up
from pqfl.demo.hospitals import Patients
from pqfl.demo.processes import Crew, Event, Inbox, Process, follow
from pqfl.demo.progress import Progress
from pqfl.demo.report import DemoReport, SiteFacts
from pqfl_transport.tls.engine import openssl_version

_START_SECONDS = 20.0
_ROUND_SECONDS = 90.0
PICTURE = "learning-curves.png"
REPORT = "report.json"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the caller can choose."""

    sites: int
    rounds: int
    out: Path
    level: str
    seed: int


@dataclass(frozen=True, slots=True)
class _Service:
    process: Process
    address: str
    status_address: str

    def status(self) -> dict[str, Any]:
        # The address is a loopback one that the process itself has just announced.
        with urllib.request.urlopen(f"http://{self.status_address}", timeout=_START_SECONDS) as answer:
            facts: dict[str, Any] = json.load(answer)
        return facts


def run(options: DemoOptions, progress: Progress) -> DemoReport:
    """Run the demonstration and return its report, already written to ``options.out``."""
    started = time.monotonic()
    progress.step("certificates, keys and patients")
    folder = set_up(
        options.out, sites=options.sites, rounds=options.rounds, level=options.level, seed=options.seed
    )  # fmt: skip
    with Crew(folder.path / "logs") as crew:
        progress.step("aggregator and gateway")
        aggregator = _start_aggregator(crew, folder)
        gateway = _start_gateway(crew, folder, aggregator, options.level)
        progress.step(f"{options.sites} hospitals: a sidecar and an FL client each")
        sidecars = {h.name: _start_sidecar(crew, h, gateway, options.level) for h in folder.hospitals}
        accuracy, done = _follow_rounds(crew, folder, sidecars, options, progress)
        channel = gateway.status()["peers"]
        crypto_seconds = _crypto_seconds([gateway, *sidecars.values()], aggregator, done)
        processes = len(crew.members)
    progress.step("each hospital alone, and all data pooled, for comparison")
    sites = tuple(
        _site_facts(hospital, channel[hospital.uri], done[hospital.name], _alone(folder, hospital.patients, options))
        for hospital in folder.hospitals
    )
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = DemoReport(
        level=options.level,
        openssl=openssl_version(),
        seed=options.seed,
        held_out_patients=len(folder.held_out),
        accuracy=accuracy,
        accuracy_pooled=_alone(folder, hospitals.pooled([h.patients for h in folder.hospitals]), options),
        sites=sites,
        processes=processes,
        seconds=time.monotonic() - started,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        crypto_seconds=crypto_seconds,
    )
    report.write_json(folder.path / REPORT)
    report.draw(folder.path / PICTURE)
    return report


def _start_aggregator(crew: Crew, folder: Folder) -> _Service:
    process = crew.start(
        "aggregator", "-m", "pqfl", "aggregator", "--config", str(folder.aggregator_config), "--log-format", "json"
    )  # fmt: skip
    address = process.wait_for(_is_listening, _START_SECONDS)["address"]
    return _Service(process, address, f"{address}/v1/status")


def _start_gateway(crew: Crew, folder: Folder, aggregator: _Service, level: str) -> _Service:
    allowed = [flag for hospital in folder.hospitals for flag in ("--allow-uri", hospital.uri)]
    return _start_proxy(
        crew, "gateway", "server", folder.gateway, aggregator.address, level,
        *allowed, "--audit", str(folder.path / "logs" / "gateway-audit.jsonl"),
    )  # fmt: skip


def _start_sidecar(crew: Crew, hospital: Hospital, gateway: _Service, level: str) -> _Service:
    return _start_proxy(
        crew, f"sidecar-{hospital.name}", "client", hospital.sidecar, gateway.address, level,
        "--verify-uri", f"spiffe://{FEDERATION}/gateway/hub",
    )  # fmt: skip


def _start_proxy(crew: Crew, name: str, command: str, identity: Path, target: str, level: str, *more: str) -> _Service:
    process = crew.start(
        name, "-m", "pqfl", command, "--listen", "127.0.0.1:0", "--target", target, "--level", level,
        "--cert", str(identity / "tls.pem"), "--key", str(identity / "tls.key"), "--cacert", str(identity / "ca.pem"),
        "--status", "127.0.0.1:0", "--log-format", "json", *more,
    )  # fmt: skip
    listening = process.wait_for(_is_listening, _START_SECONDS)
    return _Service(process, listening["address"], f"{listening['status']}/_status")


def _is_listening(event: Event) -> bool:
    return event.get("event") == "listening"


def _follow_rounds(
    crew: Crew, folder: Folder, sidecars: dict[str, _Service], options: DemoOptions, progress: Progress
) -> tuple[tuple[float, ...], dict[str, Event]]:
    """Start the FL clients and follow them to their end; return the accuracy of each model and each client's report."""
    inbox: Inbox = SimpleQueue()
    clients = {
        crew.start(f"site-{h.name}", *_site_arguments(folder, h, sidecars[h.name], options), inbox=inbox): h.name
        for h in folder.hospitals
    }
    accuracy: dict[int, float] = {}
    done: dict[str, Event] = {}
    for process, event in follow(list(clients), inbox, _ROUND_SECONDS):
        match event.get("event"):
            case "model" if event["version"] not in accuracy:
                accuracy[event["version"]] = event["accuracy"]
                progress.model(event["version"], options.rounds, event["accuracy"])
            case "trained":
                progress.trained(clients[process], event["round"])
            case "done":
                done[clients[process]] = event
    return tuple(accuracy[version] for version in range(options.rounds + 1)), done


def _site_arguments(folder: Folder, hospital: Hospital, sidecar: _Service, options: DemoOptions) -> list[str]:
    return [
        "-m", "pqfl.demo.site", "--url", f"http://{sidecar.address}", "--rounds", str(options.rounds),
        "--identity", str(hospital.client), "--roster", str(folder.roster), "--ca", str(hospital.client / "ca.pem"),
        "--patients", str(hospital.client / "patients.npz"), "--held-out", str(folder.path / "held-out.npz"),
    ]  # fmt: skip


def _crypto_seconds(sidecars: list[_Service], aggregator: _Service, done: dict[str, Event]) -> float:
    services = [service.status() for service in (*sidecars, aggregator)]
    return sum(float(facts["crypto_seconds"]) for facts in (*services, *done.values()))


def _site_facts(hospital: Hospital, peer: dict[str, Any], done: Event, alone: tuple[float, ...]) -> SiteFacts:
    return SiteFacts(
        name=hospital.name,
        patients=len(hospital.patients),
        accuracy_alone=alone,
        group=peer["group"],
        cipher_suite=peer["cipher_suite"],
        # The gateway reports: what is its own signature here is the gateway's, the peer's is the site's.
        site_signature=peer["peer_sigalg"],
        gateway_signature=peer["own_sigalg"],
        bytes_up=peer["bytes_in"],
        bytes_down=peer["bytes_out"],
        seconds=done["seconds"],
        train_seconds=done["train_seconds"],
        crypto_seconds=done["crypto_seconds"],
    )


def _alone(folder: Folder, patients: Patients, options: DemoOptions) -> tuple[float, ...]:
    weights = folder.start
    accuracies = [model.accuracy(weights, folder.held_out)]
    for number in range(1, options.rounds + 1):
        weights = model.train(weights, patients, model.EPOCHS_PER_ROUND, seed=number)
        accuracies.append(model.accuracy(weights, folder.held_out))
    return tuple(accuracies)
