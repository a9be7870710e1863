"""Record the envelopes of `cases`, one file a subject, and the table of README.md; see README.md beside this file."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from pqfl_transport.crypto.pyca import SigningKey  # noqa: E402 -- found through the path set above
from tests.support.envelopes import Keys, make_keys  # noqa: E402
from tests.vectors.envelope.cases import bodies, headers, plaintexts, receivers, suites  # noqa: E402
from tests.vectors.envelope.cases.entries import Entry  # noqa: E402

SUBJECTS: dict[str, Callable[[Keys], list[Entry]]] = {
    "headers": headers.headers,
    "prologues": headers.prologues,
    "receivers": receivers.receivers,
    "keys": receivers.unwrapping,
    "bodies": bodies.bodies,
    "thresholds": lambda keys: bodies.thresholds(keys, signers(keys)),
    "layouts": plaintexts.layouts,
    "codecs": plaintexts.codecs,
}
"""All under the suite with the shortest keys and signatures."""
SUITES = {
    "pqfl/v1/mlkem768x25519-chacha-mldsa44": "standard",
    "pqfl/v1/mlkem768x25519-chacha-mldsa65": "high",
    "pqfl/v1/mlkem1024p384-chacha-mldsa87": "maximum",
    "pqfl/v1/mlkem1024-mldsa87": "cnsa2",
}
BEGIN, END = "<!-- begin: written by record_cases.py -->", "<!-- end -->"


def signers(keys: Keys) -> dict[str, SigningKey]:
    """Return the trustees' signing keys, from fixed seeds."""
    return {
        name: SigningKey.from_seed(keys.signing.algorithm, bytes([number]) * 32)
        for number, name in enumerate(bodies.TRUSTEES, 0x41)
    }


def keys_of(suite: str, level: str) -> Keys:
    """Return the fixed keys of a level, for one suite of its policy."""
    keys = make_keys(level)
    return replace(keys, policy=replace(keys.policy, content_suites=(suite,)))


def write(name: str, keys: Keys, entries: list[Entry]) -> None:
    """Write one file."""
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names), f"{name}: a name stands twice"
    found: dict[str, Any] = {
        "suite": keys.policy.content_suites[0],
        "level": keys.policy.level.value,
        "keys": {
            "sender": bytes(range(32)).hex(),
            "receiving": [key._key.stored.hex() for key in (keys.receiving, keys.other)],
            "combiner": keys.combiner._key.stored.hex(),
            "trustees": {name: (bytes([number]) * 32).hex() for number, name in enumerate(bodies.TRUSTEES, 0x41)},
        },
        "vectors": entries,
    }
    (HERE / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def table() -> str:
    """Return the table of what covers what, from the recorded files."""
    lines = ["| section | what | vector | result |", "|---|---|---|---|"]
    found = []
    for path in sorted(HERE.glob("*.json")):
        for entry in json.loads(path.read_text())["vectors"]:
            if "section" in entry:
                result = f"`{entry['error']}`" if "error" in entry else "opens"
                refused = "".join(f", `{reason}`" for reason in entry.get("refused", ()))
                found.append((_order(entry["section"]), entry["section"], entry["name"], path.stem, result + refused))
    lines += [f"| {section} | {name} | `{stem}` | {result} |" for _, section, name, stem, result in sorted(found)]
    return "\n".join(lines)


def _order(section: str) -> tuple[int, int]:
    chapter, _, item = section.removeprefix("§").partition(" item ")
    return int(chapter), int(item or 0)


def main() -> None:
    """Write every file, or those that are named; then the table."""
    chosen = sys.argv[1:]
    standard = keys_of("pqfl/v1/mlkem768x25519-mldsa44", "standard")
    for name, make in SUBJECTS.items():
        if not chosen or name in chosen:
            write(name, standard, make(standard))
    for suite, level in SUITES.items():
        name = f"kinds-{suite.rpartition('/')[2]}"
        if not chosen or name in chosen:
            keys = keys_of(suite, level)
            write(name, keys, suites.suites(keys, signers(keys)))
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
