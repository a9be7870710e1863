"""A survey says what a server does: post-quantum ones, classical ones, old ones, and those that are none."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from pqfl_transport.errors import TransportError
from pqfl_transport.tls import server_context
from pqfl_transport.tls.config import TlsIdentity
from pqfl_transport.tls.survey import ClientCertificate, Survey, Surveyor
from tests.support.classical import make_leaf, make_root, write_classical
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve every connection in a thread of its own; give the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            answer(connection)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def tls(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(1)

    return answer


def survey(port: int, **options: Any) -> Survey:
    return Surveyor("127.0.0.1", port, **options).survey()


def test_a_gateway_of_ours(federation: Federation) -> None:
    """Hybrid group, ML-DSA, no fallback, and a client certificate that it insists on."""
    folder = federation.gateway
    context = server_context(folder / "tls.pem", folder / "tls.key", folder / "ca.pem", allow_all=True)
    with serving(tls(context)) as port:
        found = survey(port)
        site = federation.site("bank-a")
        identity = TlsIdentity.load(site / "tls.pem", site / "tls.key", site / "ca.pem")
        shown = survey(port, identity=identity)
    assert found.handshake.group == "X25519MLKEM768"
    assert (found.post_quantum_key_exchange, found.post_quantum_authentication) == (True, True)
    assert (found.classical_fallback, found.tls_1_2) == (False, False)
    assert {name for name, taken in found.groups.items() if taken} == {"X25519MLKEM768", "SecP256r1MLKEM768"}
    assert found.handshake.client_certificate is ClientCertificate.REQUIRED
    assert shown.handshake.client_certificate is ClientCertificate.SHOWN
    (seen,) = found.handshake.chain
    assert (seen.key, seen.signature) == ("ML-DSA-65", "ML-DSA-65")
    assert federation.gateway_uri in seen.names


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_classical_server(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Any version, any certificate: surveyed all the same, and called what it is."""
    root = make_root("rsa root", rsa.generate_private_key(65537, 2048))
    folder = write_classical(tmp_path, root, *make_leaf(root, rsa.generate_private_key(65537, 2048)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    context.minimum_version = context.maximum_version = version
    context.set_ecdh_curve("prime256v1")
    with serving(tls(context)) as port:
        found = survey(port, server_name="localhost")
    assert (found.post_quantum_key_exchange, found.post_quantum_authentication) == (False, False)
    assert found.handshake.version == ("TLSv1.2" if version is ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
    assert found.handshake.chain[0].key == "RSA-PSS"
    assert found.handshake.client_certificate is ClientCertificate.NOT_ASKED
    assert found.classical_fallback


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda connection: connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n"), "protocol"),
        (lambda connection: connection.close(), "truncated"),
    ],
)
def test_what_is_no_tls_server(answer: Callable[[socket.socket], None], reason: str) -> None:
    """It is said in one sentence, with the address."""
    with serving(answer) as port, pytest.raises(TransportError, match=f"127.0.0.1:{port}") as caught:
        survey(port)
    assert caught.value.reason in {reason, "protocol", "truncated"}


def test_a_server_that_says_nothing() -> None:
    """Its silence is waited for no longer than asked."""
    over = threading.Event()
    with serving(lambda _connection: over.wait(30)) as port, pytest.raises(TransportError) as caught:
        survey(port, timeout_seconds=0.2)
    over.set()
    assert caught.value.reason == "timeout"


def test_nobody_there() -> None:
    """A port without a server, and a name without an address."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(TransportError) as caught:
        survey(port)
    assert caught.value.reason == "target_down"
    with pytest.raises(TransportError, match=r"no-such-host\.invalid"):
        Surveyor("no-such-host.invalid", 443).survey()


def test_names_that_a_terminal_would_obey_are_made_harmless(tmp_path: Path) -> None:
    """A server cannot rewrite the screen of who looks at it."""
    root = make_root("root")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a\x1b[2Jb" + "c" * 50)])
    folder = write_classical(tmp_path, root, *make_leaf(root, subject=subject))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    with serving(tls(context)) as port:
        (seen, *_) = survey(port).handshake.chain
    assert seen.subject.startswith("CN=a?[2Jb")
