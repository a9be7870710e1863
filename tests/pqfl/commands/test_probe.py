"""`pqfl probe`: words, JSON and the exit status say the same."""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pqfl.commands.probe import probe
from pqfl_transport.errors import PolicyError, TransportError
from pqfl_transport.tls import server_context
from tests.pqfl_transport.tls.test_survey import serving, tls
from tests.support.classical import make_leaf, make_root, write_classical
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


def run(*words: str) -> Result:
    return CliRunner().invoke(probe, list(words), catch_exceptions=False)


def gateway(federation: Federation) -> ssl.SSLContext:
    folder = federation.gateway
    return server_context(folder / "tls.pem", folder / "tls.key", folder / "ca.pem", allow_all=True)


def test_a_post_quantum_server_in_words_and_json(federation: Federation) -> None:
    """Group, certificates and fallback; everything that is asked for is there, so the status is 0."""
    with serving(tls(gateway(federation))) as port:
        words = run(f"127.0.0.1:{port}", "--require", "all")
        facts: dict[str, Any] = json.loads(run(f"127.0.0.1:{port}", "--json", "--quick").output)
    assert words.exit_code == 0
    for fact in ("X25519MLKEM768", "ML-DSA-65", "refuses classical clients", "Nothing was verified"):
        assert fact in words.output
    assert (facts["group"], facts["post_quantum_key_exchange"], facts["client_certificate"]) == (
        "X25519MLKEM768", True, "required",
    )  # fmt: skip
    assert facts["chain"][0]["names"][0] == federation.gateway_uri


def test_a_classical_server_is_refused_by_policy(tmp_path: Path) -> None:
    """Its findings are printed, and the status is 3."""
    root = make_root("root")
    folder = write_classical(tmp_path, root, *make_leaf(root))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    with serving(tls(context)) as port, pytest.raises(PolicyError, match="not post-quantum") as caught:
        run(f"127.0.0.1:{port}", "--quick")
    assert caught.value.exit_status == 3


def test_nobody_there_is_a_failure() -> None:
    """One sentence, status 1."""
    with pytest.raises(TransportError) as caught:
        run("127.0.0.1:1")
    assert caught.value.exit_status == 1


def test_a_certificate_needs_its_key() -> None:
    """Usage errors end with 2."""
    assert run("127.0.0.1:1", "--cert", "tls.pem").exit_code == 2
