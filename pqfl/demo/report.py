"""What the demonstration ends with: a table, a picture of the learning curves, a JSON report."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """One hospital: what its channel negotiated, what went over it, and how good it would be on its own."""

    name: str
    patients: int
    accuracy_alone: tuple[float, ...]
    """On the held-out patients, after as many epochs as each round took, had it trained by itself."""
    group: str
    cipher_suite: str
    site_signature: str
    gateway_signature: str
    bytes_up: int
    bytes_down: int
    seconds: float
    train_seconds: float
    crypto_seconds: float


@dataclass(frozen=True, slots=True)
class DemoReport:
    """All facts of one run, as written to ``report.json``."""

    level: str
    openssl: str
    seed: int
    held_out_patients: int
    accuracy: tuple[float, ...]
    """Of the model after round 0 (untrained), 1, 2 … on the held-out patients."""
    accuracy_pooled: tuple[float, ...]
    sites: tuple[SiteFacts, ...]
    processes: int
    seconds: float
    cpu_seconds: float
    crypto_seconds: float

    @property
    def crypto_share(self) -> float:
        """The part of all processes' CPU time that went into TLS and envelopes, 0 … 1."""
        return self.crypto_seconds / self.cpu_seconds if self.cpu_seconds else 0.0

    def write_json(self, path: Path) -> None:
        """Write the report for programs."""
        facts: dict[str, Any] = asdict(self) | {"crypto_share": self.crypto_share}
        path.write_text(json.dumps(facts, indent=2) + "\n")

    def print(self, console: Console) -> None:
        """Print the tables for people."""
        for table in (self._accuracy_table(), self._channel_table(), self._cost_table()):
            console.print(table)
            console.print()
        console.print(
            f"Cryptography (TLS and envelopes, all {self.processes} processes) took {self.crypto_seconds:.2f} s of "
            f"{self.cpu_seconds:.1f} CPU seconds: {self.crypto_share:.1%}. OpenSSL: {escape(self.openssl)}.",
            highlight=False,
        )

    def _accuracy_table(self) -> Table:
        table = _table(f"Accuracy on {self.held_out_patients} patients nobody trained on")
        table.add_column("round", justify="right")
        table.add_column("together", justify="right", style="bold green")
        for site in self.sites:
            table.add_column(f"{_short(site.name)} alone\n({site.patients})", justify="right")
        table.add_column("all data\npooled", justify="right", style="dim")
        for number, together in enumerate(self.accuracy):
            alone = [f"{site.accuracy_alone[number]:.1%}" for site in self.sites]
            table.add_row(str(number), f"{together:.1%}", *alone, f"{self.accuracy_pooled[number]:.1%}")
        return table

    def _channel_table(self) -> Table:
        table = _table("What the channel of each site negotiated")
        for column in ("site", "key exchange", "cipher suite", "signatures\nsite / gateway"):
            table.add_column(column)
        for site in self.sites:
            signatures = f"{site.site_signature} / {site.gateway_signature}"
            table.add_row(_short(site.name), site.group, site.cipher_suite, signatures)
        return table

    def _cost_table(self) -> Table:
        table = _table("What each site sent, received and spent")
        table.add_column("site")
        for column in ("bytes up", "bytes down", "seconds", "of them\ntraining", "of them\ncryptography"):
            table.add_column(column, justify="right")
        for site in self.sites:
            table.add_row(
                _short(site.name), f"{site.bytes_up:,}", f"{site.bytes_down:,}", f"{site.seconds:.2f}",
                f"{site.train_seconds:.3f}", f"{site.crypto_seconds:.3f}",
            )  # fmt: skip
        return table

    def draw(self, path: Path) -> None:
        """Draw the learning curves as a PNG: together against alone and pooled."""
        # The picture is made without a display, and Matplotlib is slow to load: only here.
        import matplotlib as mpl  # noqa: PLC0415

        mpl.use("Agg")
        from matplotlib import pyplot as plt  # noqa: PLC0415
        from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: PLC0415

        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        rounds = range(len(self.accuracy))
        axes.plot(rounds, self.accuracy_pooled, color="0.45", linestyle="--", label="all data pooled (not allowed)")
        for site, color in zip(self.sites, _colors(len(self.sites)), strict=True):
            label = f"{site.name} alone ({site.patients} patients)"
            axes.plot(rounds, site.accuracy_alone, color=color, linewidth=1.2, marker=".", label=label)
        axes.plot(rounds, self.accuracy, color="#0b6e4f", linewidth=2.8, marker="o", label="together, sealed updates")
        axes.set(
            xlabel="round", ylabel=f"accuracy on {self.held_out_patients} held-out patients",
            title=f"{len(self.sites)} hospitals, one model: {self.sites[0].group}, {self.sites[0].site_signature}",
        )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def _short(name: str) -> str:
    """Return a hospital's name without the part that all of them share: a line has 80 characters."""
    return name.removeprefix("hospital-")


def _colors(count: int) -> list[str]:
    palette = ("#c8553d", "#3d7ea6", "#b58900", "#7b4b94", "#8a6d3b", "#d98c5f", "#5f9ea0", "#a05195")
    return [palette[index % len(palette)] for index in range(count)]
