"""`pqfl policy`: which level some data needs, and what it consists of."""

import json
from typing import Any

import click

from pqfl_transport.policy import POLICIES, Assessment, Constraints, Policy, assess

_SETS = (
    ("groups", "TLS groups"),
    ("leaf_keys", "certificate keys"),
    ("ca_signatures", "certificate signatures"),
    ("tls_suites", "TLS cipher suites"),
    ("content_suites", "content suites"),
)


@click.group("policy")
def policy_group() -> None:
    """Choose and show policies: five sets of names, and nothing is "at least"."""


@policy_group.command("explain")
@click.option("--sensitivity", type=float, required=True, help="Of the data, 0 to 1.")
@click.option("--horizon-years", type=float, required=True, help="How long it has to stay secret.")
@click.option("--no-aes", is_flag=True, help="The machine has no AES instructions.")
@click.option("--cnsa2", is_flag=True, help="A regulation asks for CNSA 2.0.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def explain(sensitivity: float, horizon_years: float, no_aes: bool, cnsa2: bool, as_json: bool) -> None:
    """Say which security level the data needs, why, and which algorithms that means."""
    assessment = assess(sensitivity, horizon_years, Constraints(aes_hardware=not no_aes, cnsa2=cnsa2))
    if as_json:
        click.echo(json.dumps(_facts(assessment), indent=1))
        return
    click.echo(f"level {assessment.level.value} (policy {assessment.policy.name})\nbecause {assessment.reason}\n")
    _print(assessment.policy)


@policy_group.command("show")
@click.argument("name", type=click.Choice(sorted(POLICIES)))
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the sets of a policy by its name."""
    policy = POLICIES[name]
    if as_json:
        click.echo(json.dumps({"policy": policy.name, "level": policy.level.value} | _sets(policy), indent=1))
        return
    _print(policy)


def _facts(assessment: Assessment) -> dict[str, Any]:
    facts = {"level": assessment.level.value, "policy": assessment.policy.name, "reason": assessment.reason}
    return facts | _sets(assessment.policy)


def _sets(policy: Policy) -> dict[str, Any]:
    return {name: list(getattr(policy, name)) for name, _ in _SETS}


def _print(policy: Policy) -> None:
    for name, title in _SETS:
        click.echo(f"{title + ':':<24}{', '.join(getattr(policy, name))}")
