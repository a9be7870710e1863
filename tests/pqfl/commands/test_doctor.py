"""`pqfl doctor`: what it says works was tried, and what does not work it says."""

import json

import pytest
from click.testing import CliRunner

from pqfl.commands import doctor as module
from pqfl_transport.errors import PlatformError


def test_everything_of_the_default_level_works_here() -> None:
    """The JSON names the OpenSSL, every group and signature tried, and each level."""
    done = CliRunner().invoke(module.doctor, ["--json"], catch_exceptions=False)
    facts = json.loads(done.output)
    works = {finding["name"]: finding["works"] for finding in facts["findings"]}
    assert facts["openssl"].startswith("OpenSSL ")
    assert works["X25519MLKEM768"]
    assert works["ML-DSA-65"]
    assert works["crypto door"]
    assert facts["levels"] == {"standard": True, "high": True, "maximum": True, "cnsa2": True}


def test_people_get_a_table() -> None:
    """Without --json the same findings are readable."""
    done = CliRunner().invoke(module.doctor, [], catch_exceptions=False)
    assert "OpenSSL in use" in done.output
    assert "SecP384r1MLKEM1024" in done.output


def test_a_group_that_does_not_work_spoils_its_level_and_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """A libcrypto without the default group is reported by name, and the command fails."""
    broken = module.negotiable_groups() | {"X25519MLKEM768": (False, "this libcrypto does not know the group")}
    monkeypatch.setattr(module, "negotiable_groups", lambda: broken)
    done = CliRunner().invoke(module.doctor, ["--json"])
    assert isinstance(done.exception, PlatformError)
    assert json.loads(done.output)["levels"]["high"] is False


def test_a_missing_optional_part_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is named with the command that installs it."""
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    found = [finding for finding in module.examine() if finding.subject == "optional"]
    assert any("liboqs" in finding.name for finding in found)
    optional = [finding for finding in found if finding.name != "liboqs"]
    assert optional
    assert all(not finding.works and "pip install 'pqfl[demo]'" in finding.remark for finding in optional)
