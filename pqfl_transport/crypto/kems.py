"""Key encapsulation by row: which door a KEM's keys go through is a column of the table, not the caller's decision."""

from pqfl_transport.algorithms import Kind, find
from pqfl_transport.crypto import pyca


def wrapped_bytes(kem: str, plaintext_bytes: int) -> int:
    """Return the length of what wrapping so many bytes to a key of this KEM makes."""
    return pyca.wrapped_bytes(find(kem, Kind.KEM).name, plaintext_bytes)
