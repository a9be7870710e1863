"""Spans of time on the command line: 90s, 15m, 24h, 30d."""

import re
from types import MappingProxyType
from typing import Any

import click

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)
_SECONDS = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400})


class DurationOrNow(click.ParamType[int]):
    """A span of time from now on, or ``now`` or ``0`` for none; gives seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return seconds."""
        return 0 if value in {"now", "0"} else Duration().convert(value, param, ctx)


class Duration(click.ParamType[int]):
    """A whole number and its unit; gives seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return seconds."""
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r}: expected a number and s, m, h or d, as 24h", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]
