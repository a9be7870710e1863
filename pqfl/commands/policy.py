"""`pqfl policy`: which level some data needs, what a policy consists of, and what an advisory takes away."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pqfl.commands.reading import PATH, read_advisory
from pqfl_transport.crypto.measuring import measure
from pqfl_transport.errors import ConfigurationError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.advisory import open_advisory
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.policy import Advisory, Assessment, Constraints, Policy, SecurityLevel, assess, for_level

_SETS = (
    ("groups", "TLS groups"),
    ("leaf_keys", "certificate keys"),
    ("ca_signatures", "certificate signatures"),
    ("tls_suites", "TLS cipher suites"),
    ("content_suites", "content suites"),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")


@click.group("policy")
def policy_group() -> None:
    """Choose and show policies: five sets of names, and nothing is "at least"."""


@policy_group.command("explain")
@click.option("--sensitivity", type=float, required=True, help="Of the data, 0 to 1.")
@click.option("--horizon-years", type=float, required=True, help="How long it has to stay secret.")
@click.option("--no-aes", is_flag=True, help="The machine has no AES instructions.")
@click.option("--cnsa2", is_flag=True, help="A regulation asks for CNSA 2.0.")
@click.option("--link-kbps", type=float, metavar="KBIT/S", help="How fast the link is, where it is slow.")
@click.option(
    "--handshake-seconds", type=float, default=1.0, show_default=True, help="How long a handshake may take on the link."
)
@click.option("--cpu-budget", type=float, metavar="MS", help="Processor time for a handshake; measured here and now.")
@click.option("--advisory", type=PATH, help="The federation's current advisory.")
@click.option("--cacert", type=PATH, help="The root that signs advisories.")
@_JSON
def explain(  # noqa: PLR0913, PLR0917 -- one option each
    sensitivity: float,
    horizon_years: float,
    no_aes: bool,
    cnsa2: bool,
    link_kbps: float | None,
    handshake_seconds: float,
    cpu_budget: float | None,
    advisory: Path | None,
    cacert: Path | None,
    as_json: bool,
) -> None:
    """Say which security level the data needs, why, and which algorithms that means.

    What the place lacks changes the order of preference, what became known takes algorithms away; neither leads below
    the level that the data needs.
    """
    constraints = Constraints(
        aes_hardware=not no_aes,
        cnsa2=cnsa2,
        link_kilobits_per_second=link_kbps,
        handshake_seconds=handshake_seconds,
        cpu_milliseconds=cpu_budget,
        measured=None if cpu_budget is None else measure(for_level(level) for level in SecurityLevel),
    )
    intelligence = None
    if advisory is not None:
        if cacert is None:
            raise ConfigurationError("--advisory needs --cacert: the root there signs it", reason="missing")
        intelligence = read_advisory(advisory, cacert, federation=None)
    assessment = assess(sensitivity, horizon_years, constraints, intelligence)
    if as_json:
        click.echo(json.dumps(_facts(assessment), indent=1))
        return
    click.echo(f"level {assessment.level.value} (policy {assessment.policy.name})")
    click.echo("because " + "\n        ".join(assessment.reason.split("; ")) + "\n")
    _print(assessment.policy)


@policy_group.command("show")
@click.argument("name", metavar="NAME|FILE")
@_JSON
def show(name: str, as_json: bool) -> None:
    """Show the sets of a policy by its name, or check and show a .toml file of your own."""
    policy = load_policy(name)
    if as_json:
        facts: dict[str, Any] = {"policy": policy.name, "level": policy.level.value} | _sets(policy)
        if policy.classical is not None:
            facts["classical"] = {
                field: list(getattr(policy.classical, field)) for field in ("groups", "leaf_keys", "ca_signatures")
            }
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(f"policy {policy.name}, level {policy.level.value}")
    _print(policy)
    if policy.classical is not None:
        for field, title in _SETS[:3]:
            click.echo(f"{f'classical {title}:':<34}{', '.join(getattr(policy.classical, field))}")


@policy_group.command("advisory")
@click.argument("file", type=PATH)
@click.option("--cacert", type=PATH, required=True, help="The root that signs advisories.")
@_JSON
def show_advisory(file: Path, cacert: Path, as_json: bool) -> None:
    """Verify an advisory and show what it takes away. What was seen before is not asked, nor kept."""
    roots = keystore.root_keys(keystore.load_anchors(cacert))
    # Shown whatever its dates: that it is past its end is one of the facts.
    found = open_advisory(keystore.read_public(file), roots, now=0)
    now = time.time()
    if as_json:
        click.echo(json.dumps(_advisory_facts(found, now), indent=1))
        return
    end = f"{'past its end since' if found.is_stale(now) else 'until'} {_day(found.expires_at)}"
    click.echo(f"advisory {found.number} of federation {found.federation}, of {_day(found.issued_at)}, {end}")
    for one in found.withdrawals:
        pending = "" if one.not_before <= now else " (not yet)"
        click.echo(f"  {one.sentence()}{pending}")


def _advisory_facts(advisory: Advisory, now: float) -> dict[str, Any]:
    return {
        "federation": advisory.federation,
        "number": advisory.number,
        "issued_at": advisory.issued_at,
        "expires_at": advisory.expires_at,
        "stale": advisory.is_stale(now),
        "withdrawn": [
            {"algorithm": one.algorithm, "status": one.status.value, "not_before": one.not_before, "why": one.why}
            for one in advisory.withdrawals
        ],
    }


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def _facts(assessment: Assessment) -> dict[str, Any]:
    facts = {"level": assessment.level.value, "policy": assessment.policy.name, "reason": assessment.reason}
    changes = [
        {"set": one.set, "old": list(one.old), "new": list(one.new), "why": one.why} for one in assessment.changes
    ]
    return facts | _sets(assessment.policy) | {"changes": changes}


def _sets(policy: Policy) -> dict[str, Any]:
    return {name: list(getattr(policy, name)) for name, _ in _SETS}


def _print(policy: Policy) -> None:
    for name, title in _SETS:
        click.echo(f"{title + ':':<24}{', '.join(getattr(policy, name))}")
