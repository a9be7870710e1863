"""`pqfl doctor`: what really works on this machine, shown by doing it, and how to get what is missing."""

import json
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pqfl_transport.algorithms import Kind
from pqfl_transport.crypto import liboqs
from pqfl_transport.crypto.selftest import run_self_test
from pqfl_transport.errors import PlatformError
from pqfl_transport.policy import Policy, SecurityLevel, for_level
from pqfl_transport.tls.engine import negotiable_groups, negotiable_signatures, openssl_version

_OPTIONAL = (
    # (module looked for, what it gives, how to get it)
    ("sklearn", "data set of `pqfl demo`", "pip install 'pqfl[demo]'"),
    ("matplotlib", "pictures of `pqfl demo`", "pip install 'pqfl[demo]'"),
)
_REQUIRED_PACKAGES = ("cryptography", "pyOpenSSL", "aiohttp", "numpy", "click", "rich")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    subject: str
    name: str
    works: bool
    remark: str = ""


@click.command(short_help="Show what works on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Show what works here: the OpenSSL in use, every group and signature by a handshake in memory, optional parts.

    The exit status is 0 when the default security level works, 1 when it does not.
    """
    findings = examine()
    levels = {finding.name: finding.works for finding in findings if finding.subject == "security level"}
    if as_json:
        facts = {"openssl": openssl_version(), "findings": [asdict(finding) for finding in findings], "levels": levels}
        click.echo(json.dumps(facts, indent=2))
    else:
        _print(findings)
    if not levels["high"]:
        raise PlatformError("the default security level 'high' does not work on this machine", reason="doctor")


def examine() -> list[Finding]:
    """Try everything and return what was found, required things first."""
    handshakes = [
        *_handshakes(Kind.TLS_GROUP, negotiable_groups()),
        *_handshakes(Kind.SIGNATURE, negotiable_signatures()),
    ]
    working = {finding.name for finding in handshakes if finding.works}
    return [
        Finding("interpreter", "Python", works=True, remark=sys.version.split()[0]),
        *(Finding("package", name, works=True, remark=_version(name)) for name in _REQUIRED_PACKAGES),
        _self_test(),
        *handshakes,
        *(_level(for_level(level), working) for level in SecurityLevel),
        _liboqs(),
        *(_optional(module, gives, get) for module, gives, get in _OPTIONAL),
    ]


def _handshakes(kind: Kind, results: dict[str, tuple[bool, str]]) -> list[Finding]:
    return [Finding(kind.value, name, works, why) for name, (works, why) in results.items()]


def _level(policy: Policy, working: set[str]) -> Finding:
    missing = [name for name in (*policy.groups, *policy.leaf_keys, *policy.ca_signatures) if name not in working]
    remark = f"policy {policy.name}" if not missing else f"missing here: {', '.join(missing)}"
    return Finding("security level", policy.level.value, not missing, remark)


def _optional(module: str, gives: str, get: str) -> Finding:
    installed = find_spec(module) is not None
    return Finding("optional", module, installed, gives if installed else f"{gives}; get it with: {get}")


def _liboqs() -> Finding:
    gives = "families beyond OpenSSL's, see `pqfl algorithms`"
    try:
        return Finding("optional", "liboqs", works=True, remark=f"{liboqs.liboqs_version()}: {gives}")
    except PlatformError as error:
        return Finding("optional", "liboqs", works=False, remark=str(error))


def _self_test() -> Finding:
    try:
        return Finding("self-test", "crypto door", works=True, remark=f"{len(run_self_test())} primitives")
    except PlatformError as error:
        return Finding("self-test", "crypto door", works=False, remark=str(error))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "version unknown"


def _print(findings: list[Finding]) -> None:
    console = Console()
    console.print(f"OpenSSL in use: [bold]{escape(openssl_version())}[/]", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "name", "works", "remark"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        mark = "[green]yes[/]" if finding.works else "[red]no[/]"
        table.add_row(finding.subject, escape(finding.name), mark, escape(finding.remark))
    console.print(table)
