"""Configuration files in TOML, read table by table and key by key, so that nothing in them passes unnoticed.

Paths are relative to the folder of the file. Every error names the file, the key and what was expected.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pqfl_transport.errors import ConfigurationError


def read_toml(path: Path) -> dict[str, Any]:
    """Return a file's document. Raises ``ConfigurationError`` naming the file."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # Beside what is not TOML or not UTF-8: a number with too many digits, tables within tables without end.
        raise ConfigurationError(f"{path}: not TOML: {error}") from error


class Section:
    """One table of a file; what nobody asked for until `finish` is an error. Raises ``ConfigurationError``."""

    def __init__(self, file: Path, document: Mapping[str, Any], name: str) -> None:
        table = document.get(name)
        if not isinstance(table, dict):
            raise ConfigurationError(f"{file}: the section [{name}] is missing")
        self.file, self.name, self._table = file, name, table
        self._asked: set[str] = set()

    @classmethod
    def tables(cls, file: Path, document: Mapping[str, Any], name: str) -> list[Self]:
        """Return the sections ``[NAME.…]``, or those of ``[[NAME]]``, in the order of the file; none is fine."""
        found = document.get(name, {})
        if isinstance(found, list):
            named = {f"{name}[{number}]": table for number, table in enumerate(found, 1)}
        elif isinstance(found, dict):
            named = {f"{name}.{key}": table for key, table in found.items()}
        else:
            raise ConfigurationError(f"{file}: {name} is {found!r}; expected sections")
        return [cls(file, named, key) for key in named]

    def text(self, key: str) -> str:
        """Return a string."""
        value = self.optional_text(key)
        if value is None:
            raise self.error(key, "is missing; expected a string")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string that is not empty, or None where the key is not there."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.error(key, f"is {value!r}; expected a string that is not empty")
        return value

    def texts(self, key: str, default: Sequence[str] = (), *, among: Sequence[str] = ()) -> tuple[str, ...]:
        """Return a list of strings, each of them one of ``among`` where that is given, none twice."""
        value = self._take(key)
        value = list(default) if value is None else value
        expected = f"expected a list of {', '.join(among) or 'strings'}, none twice"
        if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
            raise self.error(key, f"is {value!r}; {expected}")
        if not value or len(set(value)) != len(value) or (among and not set(value) <= set(among)):
            raise self.error(key, f"is {value!r}; {expected}")
        return tuple(value)

    def text_or_texts(self, key: str) -> tuple[str, ...]:
        """Return a string, or a list of strings, none twice; nothing where the key is not there."""
        value = self._table.get(key)
        if isinstance(value, list):
            return self.texts(key)
        one = self.optional_text(key)
        return () if one is None else (one,)

    def choice(self, key: str, among: Sequence[str], default: str | None = None) -> str:
        """Return one of some words."""
        value = self._take(key)
        value = default if value is None else value
        if value not in among:
            raise self.error(key, f"is {value!r}; expected one of {', '.join(among)}")
        return str(value)

    def flag(self, key: str) -> bool:
        """Return true or false, which it is where the key is not there."""
        value = self._take(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, f"is {value!r}; expected true or false")
        return bool(value)

    def path(self, key: str, default: Path | None = None) -> Path:
        """Return a path, relative to the file's folder."""
        value = self.optional_text(key)
        if value is None and default is not None:
            return default
        return self.file.parent / self.text(key)

    def optional_path(self, key: str) -> Path | None:
        """Return a path, relative to the file's folder, or None where the key is not there."""
        value = self.optional_text(key)
        return None if value is None else self.file.parent / value

    def number(self, key: str, default: float | None = None, *, least: float = 0.001, whole: bool = False) -> float:
        """Return a number of at least ``least``."""
        value = self._take(key)
        value = default if value is None else value
        expected = f"expected {'a whole number' if whole else 'a number'} of at least {least:g}"
        if value is None:
            raise self.error(key, f"is missing; {expected}")
        allowed = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed) or not least <= value < float("inf"):
            raise self.error(key, f"is {value!r}; {expected}")
        return value

    def optional_number(self, key: str, *, least: float = 0.001, whole: bool = False) -> float | None:
        """Return a number of at least ``least``, or None where the key is not there."""
        return None if self._take(key) is None else self.number(key, least=least, whole=whole)

    def finish(self) -> None:
        """Raise unless everything in the section was asked for."""
        unknown = self._table.keys() - self._asked
        if unknown:
            raise self.error(min(unknown), f"is not a key of this section; known are {', '.join(sorted(self._asked))}")

    def error(self, key: str, what: str) -> ConfigurationError:
        """Return the error for a key that is not as it has to be."""
        return ConfigurationError(f"{self.file}: {self.name}.{key} {what}")

    def _take(self, key: str) -> object:
        self._asked.add(key)
        return self._table.get(key)
