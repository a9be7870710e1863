"""The demonstration's report: the same facts as a table, as JSON and as a picture."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pqfl.demo.report import DemoReport, SiteFacts


@pytest.fixture
def report() -> DemoReport:
    sites = tuple(
        SiteFacts(
            name=f"hospital-{name}", patients=100, accuracy_alone=(0.5, 0.8, 0.81), group="X25519MLKEM768",
            cipher_suite="TLS_AES_256_GCM_SHA384", site_signature="ML-DSA-65", gateway_signature="ML-DSA-65",
            bytes_up=123_456, bytes_down=234_567, seconds=12.3, train_seconds=4.5, crypto_seconds=0.067,
        )
        for name in ("north", "south", "east")
    )  # fmt: skip
    return DemoReport(
        level="high", openssl="OpenSSL 4.0.3", seed=1, held_out_patients=189, accuracy=(0.5, 0.9, 0.95),
        accuracy_pooled=(0.5, 0.93, 0.96), sites=sites, processes=8, seconds=20.0, cpu_seconds=10.0, crypto_seconds=0.5,
    )  # fmt: skip


def test_the_table_shows_every_fact_that_was_promised(report: DemoReport) -> None:
    """Accuracies beside alone and pooled; per site what was negotiated and moved; the share of cryptography."""
    text = io.StringIO()
    # The width of a plain terminal: nothing may be cut or wrapped.
    report.print(Console(file=text, width=80))
    for fact in ("95.0%", "81.0%", "96.0%", "X25519MLKEM768", "TLS_AES_256_GCM_SHA384", "ML-DSA-65 / ML-DSA-65",
                 "123,456", "234,567", "12.3", "5.0%", "OpenSSL 4.0.3"):  # fmt: skip
        assert fact in text.getvalue()


def test_the_json_report_holds_the_same_facts(report: DemoReport, tmp_path: Path) -> None:
    """Programs get every number that people see."""
    report.write_json(tmp_path / "report.json")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["accuracy"] == [0.5, 0.9, 0.95]
    assert facts["crypto_share"] == pytest.approx(0.05)
    assert [site["name"] for site in facts["sites"]] == ["hospital-north", "hospital-south", "hospital-east"]


def test_the_picture_is_a_png_of_a_sensible_size(report: DemoReport, tmp_path: Path) -> None:
    """The learning curves are drawn without a display."""
    report.draw(tmp_path / "curves.png")
    data = (tmp_path / "curves.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width >= 800
    assert height >= 500
