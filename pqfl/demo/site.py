"""The FL client of one hospital, a process of its own: `python -m pqfl.demo.site …`.

It holds the hospital's signing and receiving keys and its patients; it speaks plain HTTP to its own sidecar. What it
learns it prints as JSON lines for the demonstration to show.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import cast

from pqfl.demo import model
from pqfl.demo.hospitals import Patients
from pqfl_transport.client import FederatedClient, RoundInfo
from pqfl_transport.errors import PqflError


def say(event: str, **facts: object) -> None:
    """Print one line for the demonstration."""
    print(json.dumps({"event": event, **facts}), flush=True)  # noqa: T201 -- the line is this program's output


async def take_part(options: argparse.Namespace) -> None:
    """Join, train in every round, and report the accuracy of each model that arrives."""
    patients, held_out = Patients.load(options.patients), Patients.load(options.held_out)

    def train(weights: model.Weights, round_info: RoundInfo) -> tuple[model.Weights, int]:
        number = round_info.number
        say("model", version=number - 1, accuracy=model.accuracy(weights, held_out))
        started = time.perf_counter()
        new = model.train(weights, patients, model.EPOCHS_PER_ROUND, seed=number)
        say("trained", round=number, seconds=time.perf_counter() - started)
        return new, len(patients)

    started = time.perf_counter()
    async with FederatedClient(
        options.url, identity_dir=options.identity, roster_path=options.roster, ca_path=options.ca
    ) as client:
        final = cast("model.Weights", await client.run(train))
        say("model", version=options.rounds, accuracy=model.accuracy(final, held_out))
        report = client.report
    say(
        "done",
        seconds=time.perf_counter() - started,
        train_seconds=report.train_seconds,
        crypto_seconds=report.crypto_seconds,
    )


def main() -> int:
    """Parse the arguments and run; the exit status is that of the error, if any."""
    parser = argparse.ArgumentParser(prog="python -m pqfl.demo.site")
    parser.add_argument("--url", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    for name in ("identity", "roster", "ca", "patients", "held-out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    try:
        asyncio.run(take_part(parser.parse_args()))
    except PqflError as error:
        say("failed", reason=error.reason, detail=str(error))
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
