"""Known answers that others published, out of the package ``cryptography_vectors``."""

from collections.abc import Iterator

import cryptography_vectors


def records(path: str) -> Iterator[dict[str, str]]:
    """Yield the records of a NIST response file."""
    with cryptography_vectors.open_vector_file(path, "r") as file:
        record: dict[str, str] = {}
        for line in file:
            key, equals, value = line.partition(" = ")
            if equals and key.strip() == "count" and record:
                yield record
                record = {}
            if equals:
                record[key.strip()] = value.strip()
        yield record


def ml_kem_records(name: str) -> Iterator[dict[str, str]]:
    """Yield known answers of FIPS 203."""
    return records(f"asymmetric/MLKEM/kat_{name.replace('-', '', 1).replace('-', '_')}.rsp")


def ml_dsa_records(name: str) -> Iterator[dict[str, str]]:
    """Yield known answers of FIPS 204, each with a context string."""
    return records(f"asymmetric/MLDSA/kat_{name.replace('-', '', 1).replace('-', '_')}_det_pure.rsp")
