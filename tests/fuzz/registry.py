"""What a fuzz target is. A new one is one function under ``@target``; it runs in `make fuzz` and in the tests."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pqfl_transport.errors import PqflError

Seeds = Callable[[], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Target:
    """One parser of untrusted bytes."""

    name: str
    parse: Callable[[bytes], None]
    """Parses, and asserts what has to hold of whatever parses; `PqflError` is the one legal refusal."""
    seeds: Seeds
    """Gives good and nearly good inputs, made at run time from the recorded vectors and the tests' helpers."""
    max_bytes: int

    def run(self, data: bytes) -> None:
        """Parse ``data``; whatever is raised here is a defect."""
        try:
            self.parse(data)
        except PqflError:
            return


TARGETS: dict[str, Target] = {}


def target(seeds: Seeds, *, max_bytes: int = 4096) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register the function below as a target under its own name."""

    def register(parse: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[parse.__name__] = Target(parse.__name__, parse, seeds, max_bytes)
        return parse

    return register


def text_of(data: bytes) -> str:
    """Return text for a parser of text: every input is some text, and equal inputs are equal texts."""
    return data.decode("utf-8", "surrogateescape")
