"""`pqfl ca token|serve|pending|approve|deny`: the hub's side of joining (docs/enrolment.md)."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
from cryptography.hazmat.primitives.hashes import SHA256

from certs.authority import Authority
from certs.enrolments import Enrolment, Enrolments
from certs.issuing import require_free_name
from certs.revoking import LIST_DAYS
from certs.service import DEFAULT_REQUESTS_PER_MINUTE, ServiceConfig
from certs.service import serve as serve_requests
from pqfl.commands.ca_options import DIR, JSON, blaming
from pqfl.commands.durations import Duration
from pqfl.commands.passphrases import passphrase_option, passphrases_of
from pqfl.commands.reading import say
from pqfl_transport.errors import CertificateError
from pqfl_transport.net.address import Address
from pqfl_transport.net.logs import EventLog
from pqfl_transport.pki import keystore
from pqfl_transport.pki.enrolment import State
from pqfl_transport.pki.ruling import load_policy
from pqfl_transport.pki.spiffe import Role, SpiffeId, require_label
from pqfl_transport.pki.tokens import SERVICE_NAME, JoinToken
from pqfl_transport.pki.words import to_lines, to_words

_SITE = click.option("--site", required=True, metavar="NAME", help="What the site is called.")
_MAX_TOKEN_SECONDS = 30 * 86400


def _site_id(authority: Authority, name: str) -> SpiffeId:
    try:
        return SpiffeId(authority.federation, Role.SITE, name)
    except CertificateError as error:
        raise click.BadParameter(str(error), param_hint="--site") from error


@click.command("token")
@DIR
@_SITE
@click.option(
    "--expires", type=Duration(), default="24h", show_default=True, help="How long it can be used: 90s to 30d."
)
@click.option("--approve", "by_hand", is_flag=True, help="Let the site in only after `pqfl ca approve`.")
@click.option("--reissue", is_flag=True, help="Give a name again that was revoked.")
@JSON
def token(folder: Path, site: str, expires: int, by_hand: bool, reissue: bool, as_json: bool) -> None:
    """Make a token with which one site can join, once. It is a secret: hand it over as you would a password.

    It takes the place of an earlier one for the same site that was not used. Needs no private key.
    """
    if expires > _MAX_TOKEN_SECONDS:
        raise click.BadParameter("a token lives 30 days at most", param_hint="--expires")
    authority = Authority.open(folder)
    party = _site_id(authority, site)
    now = int(time.time())
    with blaming({"already_issued": "--site", "was_revoked": "--site"}):
        require_free_name(authority.ledger, party, reissue=reissue, now=datetime.fromtimestamp(now, UTC))
    root = keystore.load_certificate(folder / "root.pem")
    made = JoinToken.make(
        level=authority.level, root_sha256=root.fingerprint(SHA256()), party=party, expires_at=now + expires
    )
    Enrolments(folder).add(made.keys, party, now=now, expires_at=made.expires_at, by_hand=by_hand, reissue=reissue)
    facts = {"token": made.to_text(), "party": str(party), "expires_at": made.expires_at, "approve": by_hand,
             "reissue": reissue, "service": str(made.service)}  # fmt: skip
    if not as_json:
        click.echo(f"SECRET: lets {party} join, once, until {_moment(made.expires_at)}. At the site:\n"
                   f"  pqfl join --token TOKEN --hub HOST:PORT --out {site}", err=True)  # fmt: skip
    # Alone on standard output, so that it can go straight into a file or another command.
    say(facts, made.to_text(), as_json=as_json)


@click.command("serve")
@DIR
@click.option("--listen", required=True, metavar="ADDR", help="HOST:PORT, [IPV6]:PORT or systemd:NAME.")
@click.option("--approve", "by_hand", is_flag=True, help="Let nobody in before `pqfl ca approve`.")
@click.option("--gateway", metavar="ADDR", help="HOST:PORT of the gateway, as new sites reach it.")
@click.option("--gateway-name", metavar="NAME", help="Its name. [default: that of the only gateway there is]")
@click.option("--validity", type=Duration(), help="How long certificates are valid. [default: that of the profile]")
@click.option(
    "--requests-per-minute",
    type=click.IntRange(min=1),
    default=DEFAULT_REQUESTS_PER_MINUTE,
    show_default=True,
    help="Of one address.",
)
@click.option(
    "--crl-days",
    type=click.IntRange(1, 365),
    default=LIST_DAYS,
    show_default=True,
    help="How long the revocation lists are current that it signs, in time before the last ones end.",
)
@click.option("--policy", metavar="NAME|FILE", help="What peers may show while the federation changes its level.")
@click.option("--log-format", type=click.Choice(["logfmt", "json"]), default="logfmt", show_default=True)
@click.option("--quiet", is_flag=True, help="Log only trouble.")
@passphrase_option
def serve(  # noqa: PLR0913, PLR0917 -- one argument a flag
    folder: Path, listen: str, by_hand: bool, gateway: str | None, gateway_name: str | None, validity: int | None,
    requests_per_minute: int, crl_days: int, policy: str | None, log_format: str, quiet: bool,
    passphrase_file: Path | None,
) -> None:  # fmt: skip
    """Let sites join with tokens, renew certificates, and keep revocation lists current, until TERM.

    Needs issuing.key and never root.key: a new site is in when the next signed roster names it.
    """
    authority = Authority.open(folder, passphrases_of(passphrase_file))
    config = ServiceConfig(
        authority, Address.parse(listen, "--listen"), by_hand, validity,
        "" if gateway is None else str(Address.parse_target(gateway, "--gateway")),
        _gateway_id(authority, gateway_name), requests_per_minute, crl_days,
        None if policy is None else load_policy(policy),
    )  # fmt: skip
    serve_requests(config, EventLog(log_format, quiet=quiet))


@click.command("pending")
@DIR
@JSON
def pending(folder: Path, as_json: bool) -> None:
    """Show who wants to join: unused tokens, and requests that wait for approval."""
    Authority.open(folder)
    found = [one for one in Enrolments(folder).all() if one.state is not State.ISSUED]
    facts = {"enrolments": [_facts(one) for one in found]}
    lines = [line for one in found for line in _lines(one)] or ["Nobody waits."]
    say(facts, "\n".join(lines), as_json=as_json)


def _decision(name: str, *, approve: bool, summary: str, then: str) -> click.Command:
    def decide(folder: Path, site: str, as_json: bool) -> None:
        party = _site_id(Authority.open(folder), site)
        decided = Enrolments(folder).decide(party, approve=approve)
        say(_facts(decided), f"{party}: {decided.state.value}. {then}", as_json=as_json)

    decide.__doc__ = summary
    command: Callable[..., None] = decide
    for option in (JSON, _SITE, DIR):
        command = option(command)
    return click.command(name)(command)


approve = _decision(
    "approve", approve=True,
    summary="Let a site in that waits. Compare the words of its signing key with what the site reads out.",
    then="The site runs the same `pqfl join` again.",
)  # fmt: skip
deny = _decision("deny", approve=False, summary="Refuse a site that waits.", then="Its token is of no use any more.")


def _gateway_id(authority: Authority, name: str | None) -> str:
    """Return the SPIFFE ID of the gateway that sites are told to expect; empty where that is not clear."""
    names = authority.names_of(Role.GATEWAY) - {SERVICE_NAME}
    if name is None:
        return "" if len(names) != 1 else str(SpiffeId(authority.federation, Role.GATEWAY, next(iter(names))))
    try:
        require_label("name", name)
    except CertificateError as error:
        raise click.BadParameter(str(error), param_hint="--gateway-name") from error
    return str(SpiffeId(authority.federation, Role.GATEWAY, name))


def _facts(one: Enrolment) -> dict[str, object]:
    words = to_words(bytes.fromhex(one.fingerprint)) if one.fingerprint else None
    return {
        "party": str(one.party), "state": one.state.value, "made_at": one.made_at, "expires_at": one.expires_at,
        "asked_at": one.asked_at, "signing_fingerprint": one.fingerprint or None, "words": words,
        "approve": one.by_hand, "reissue": one.reissue,
    }  # fmt: skip


def _lines(one: Enrolment) -> list[str]:
    if one.asked_at is None:
        over = one.expires_at < time.time()
        return [f"{one.party}  token {'expired' if over else 'unused, until'} {_moment(one.expires_at)}"]
    words = [f"    {line}" for line in to_lines(bytes.fromhex(one.fingerprint))] if one.fingerprint else []
    return [f"{one.party}  {one.state.value}, asked {_moment(one.asked_at)}, signing key {one.fingerprint}", *words]


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


CA_COMMANDS = (token, serve, pending, approve, deny)
