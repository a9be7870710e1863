"""`pqfl probe`: what a TLS server negotiates, and whether it is post-quantum."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pqfl_transport.errors import PolicyError
from pqfl_transport.net.address import Address
from pqfl_transport.tls.config import TlsIdentity
from pqfl_transport.tls.survey import ClientCertificate, SeenCertificate, Survey, Surveyor

_FILE = click.Path(path_type=Path)


@click.command(short_help="Show what a TLS server negotiates.")
@click.argument("address", metavar="HOST:PORT")
@click.option("--server-name", metavar="NAME", help="Ask for this name instead of HOST.")
@click.option("--alpn", multiple=True, metavar="NAME", help="Offer this application protocol, as h2.")
@click.option("--cert", type=_FILE, help="Show this certificate to a server that asks for one.")
@click.option("--key", type=_FILE, help="Its private key.")
@click.option("--cacert", type=_FILE, help="Its authorities; the server's are not verified.")
@click.option(
    "--require", type=click.Choice(["key-exchange", "all"]), default="key-exchange", show_default=True,
    help="What has to be post-quantum for status 0: the key exchange, which protects what is recorded today; or all,"
    " certificates and refusal of classical clients included.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="One handshake only, without asking for each group.")
@click.option("--timeout", "timeout_seconds", default=10.0, show_default=True, metavar="SECONDS")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def probe(  # noqa: PLR0913, PLR0917 -- flags of a command
    address: str,
    server_name: str | None,
    alpn: tuple[str, ...],
    cert: Path | None,
    key: Path | None,
    cacert: Path | None,
    require: str,
    quick: bool,
    timeout_seconds: float,
    as_json: bool,
) -> None:
    """Show what the TLS server at HOST:PORT negotiates: group, cipher, certificates, and what it falls back to.

    It works on any TLS server and trusts none: nothing is verified, and no data is sent. The exit status is 0 when the
    server is post-quantum, 3 when it is not, 1 when it does not answer.
    """
    where = Address.parse(address, "HOST:PORT")
    if (cert is None) is not (key is None):
        raise click.UsageError("--cert and --key belong together")
    identity = None if cert is None or key is None else TlsIdentity.load(cert, key, cacert or cert)
    surveyor = Surveyor(where.host, where.port, server_name, alpn, identity, timeout_seconds)
    survey = surveyor.survey(thorough=not quick)
    if as_json:
        click.echo(json.dumps(_facts(survey), indent=2))
    else:
        _print(survey)
    _judge(survey, require, str(where))


def _judge(survey: Survey, require: str, where: str) -> None:
    if not survey.post_quantum_key_exchange:
        raise PolicyError(f"{where} is not post-quantum: it negotiated {survey.handshake.group}", reason="no_pq_group")
    if require != "all":
        return
    if not survey.post_quantum_authentication:
        raise PolicyError(f"{where} shows classical certificates", reason="bad_sigalg")
    if survey.classical_fallback:
        raise PolicyError(f"{where} also serves clients that offer classical groups only", reason="classical")


def _facts(survey: Survey) -> dict[str, Any]:
    handshake = survey.handshake
    return {
        "host": survey.host,
        "port": survey.port,
        "post_quantum_key_exchange": survey.post_quantum_key_exchange,
        "post_quantum_authentication": survey.post_quantum_authentication,
        "classical_fallback": survey.classical_fallback,
        "version": handshake.version,
        "group": handshake.group,
        "cipher_suite": handshake.cipher_suite,
        "alpn": handshake.alpn,
        "client_certificate": handshake.client_certificate.value,
        "seconds": round(handshake.seconds, 4),
        "groups": survey.groups,
        "tls_1_2": survey.tls_1_2,
        "chain": [_certificate(seen) for seen in handshake.chain],
    }


def _certificate(seen: SeenCertificate) -> dict[str, Any]:
    return {
        "subject": seen.subject,
        "issuer": seen.issuer,
        "key": seen.key,
        "signature": seen.signature,
        "not_before": seen.not_before.isoformat(),
        "not_after": seen.not_after.isoformat(),
        "names": list(seen.names),
    }


def _print(survey: Survey) -> None:
    console = Console(highlight=False)
    handshake = survey.handshake
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("key exchange", _mark(handshake.group, good=survey.post_quantum_key_exchange))
    signed = ", ".join(dict.fromkeys(seen.key for seen in handshake.chain)) or "no certificate"
    table.add_row("certificates", _mark(signed, good=survey.post_quantum_authentication))
    if survey.groups:
        old = [name for name, taken in survey.groups.items() if taken and "mlkem" not in name.casefold()]
        old += ["TLS 1.2"] if survey.tls_1_2 else []
        fallback = f"also takes {', '.join(old)}" if old else "refuses classical clients"
        table.add_row("fallback", _mark(fallback, good=not survey.classical_fallback))
        table.add_row("groups taken", ", ".join(name for name, taken in survey.groups.items() if taken) or "none")
    table.add_row("protocol", f"{handshake.version}, {handshake.cipher_suite}")
    table.add_row("ALPN", handshake.alpn or "none")
    table.add_row("client certificate", handshake.client_certificate.value)
    table.add_row("handshake", f"{handshake.seconds * 1000:.0f} ms")
    console.print(table)
    for depth, seen in enumerate(handshake.chain):
        _print_certificate(console, depth, seen)
    if handshake.client_certificate is ClientCertificate.REQUIRED:
        console.print("\nIt ends connections without a client certificate: show one with --cert and --key.")
    console.print("\nNothing was verified: this says what the server does, not who it is.")


def _print_certificate(console: Console, depth: int, seen: SeenCertificate) -> None:
    days = (seen.not_after - datetime.now(UTC)).days
    ends = f"expired {seen.not_after:%Y-%m-%d}" if days < 0 else f"ends {seen.not_after:%Y-%m-%d}, in {days} days"
    console.print(f"\ncertificate {depth}: {escape(seen.subject)}")
    console.print(f"  key {seen.key}, signed with {seen.signature} by {escape(seen.issuer)}")
    console.print(f"  {_mark(ends, good=days >= 0)}")
    if seen.names:
        console.print(f"  names: {escape(', '.join(seen.names[:20]))}")


def _mark(text: str, *, good: bool) -> str:
    return f"[green]✓[/green] {escape(text)}" if good else f"[red]✗[/red] {escape(text)}"


COMMANDS = (probe,)
