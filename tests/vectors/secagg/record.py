"""Record one round of secure aggregation; see README.md beside this file."""

import base64
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from pqfl_transport.aggregation.secagg.messages import Kind, parse_message  # noqa: E402
from tests.support.secagg import HUB, Network, signing_key, site_name  # noqa: E402 -- found through the path set above

SITES, READER, DROPOUT = 4, 1, 4


def recorded() -> dict[str, Any]:
    """Return a round of four sites at the usual level, of which the last drops out before it uploads."""
    net = Network(SITES, frozenset({(DROPOUT, "upload")}))
    secrets: dict[str, Any] = {}
    for name, site in net.sites.items():
        made = site._secrets
        if made is not None:
            secrets[name] = {
                "self_seed": made.self_seed.hex(), "master": made.master.hex(),
                "transport_seed": made.transport_pair.stored.hex(), "mask_seed": made.mask_pair.stored.hex(),
            }  # fmt: skip
    net.run()
    parameters, members = net.parameters, net.server._members
    (recovered,) = net.recovered
    return {
        "federation": parameters.federation,
        "round": parameters.round,
        "model_digest": parameters.model_digest.hex(),
        "roster_number": parameters.roster_number,
        "suite": parameters.suite.id,
        "aggregator": HUB,
        "secure_aggregation": {
            name: getattr(parameters.secure, name) for name in ("minimum_sites", "threshold", "clip", "bits")
        },
        "signing_keys": {name: signing_key(name).verifying_key.spki.hex() for name in (*parameters.sites, HUB)},
        "dropout": site_name(DROPOUT),
        "secrets": secrets,
        "transcripts": {
            "T0": parameters.transcript.hex(),
            "T": members.transcript.hex() if members else "",
            "T2": _transcript_of(net, Kind.UPLOADED),
        },
        "challenge": net.server.challenge.hex(),
        "masks": {
            name: {
                "self_seed": seed.hex(),
                "pair_keys": [{"with": key.site, "key": key.key.hex(), "sign": key.sign} for key in keys],
            }
            for name, vector in net.vectors.items()
            for keys, seed in vector.calls
        },
        "recovered": {
            "self_seeds": {name: seed.hex() for name, seed in recovered.self_seeds.items()},
            "pair_keys": [{"site": key.site, "key": key.key.hex(), "sign": key.sign} for key in recovered.pair_keys],
        },
        "from_sites": [_text(data) for data in net.seen],
        "reader": site_name(READER),
        "to_reader": [_text(data) for name, data in net.sent if name == site_name(READER)],
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _transcript_of(net: Network, kind: Kind) -> str:
    found = (parse_message(data) for _, data in net.sent)
    return next(message.transcript.hex() for message in found if message.kind is kind)


if __name__ == "__main__":
    (HERE / "round.json").write_text(json.dumps(recorded(), indent=1) + "\n")
