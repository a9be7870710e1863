from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from pqfl_transport.errors import MessageError, PeerError, PlatformError, PqflError
from pqfl_transport.hub import Hub
from pqfl_transport.pki.enrolment import MAX_MESSAGE_BYTES
from pqfl_transport.pki.tokens import service_id
from tests.support.enrolment import Service, root_sha256, serving
from tests.support.pki import Federation, make_federation


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return make_federation(tmp_path / "fed", sites=("north",), level="standard")


def stranger(service: Service) -> Hub:
    """Somebody without a certificate."""
    federation = service.federation
    return Hub.pinned(service.address, root_sha256(federation), service_id("fed"), federation.authority.policy)


def reason(hub: Hub, method: str, path: str, body: bytes = b"") -> str:
    with pytest.raises(PqflError) as caught:
        hub.get(path) if method == "GET" else hub.post(path, lambda _binding: body)
    return caught.value.reason


@contextmanager
def persistent(hub: Hub) -> Iterator[HTTPSConnection]:
    """One connection for several requests."""
    with closing(HTTPSConnection(hub.address.host, hub.address.port, context=hub.context, timeout=20)) as connection:
        yield connection


def fetched(connection: HTTPSConnection, path: str, headers: dict[str, str] | None = None) -> int:
    """The status of an answer."""
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_errors_are_problem_documents(federation: Federation) -> None:
    """Nonsense, other methods and other paths are each answered with their reason."""
    with serving(federation) as service:
        hub = stranger(service)
        assert reason(hub, "POST", "/v1/join", b"{}") == "malformed"
        assert reason(hub, "POST", "/v1/renew", b"\xff") == "malformed"
        assert reason(hub, "POST", "/v1/renew-twin", b"{}") == "malformed"
        assert reason(hub, "GET", "/v1/renew") == "method_not_allowed"
        assert reason(hub, "GET", "/v1/other") == "not_found"
        assert reason(hub, "POST", "/v1/join", b" " * (MAX_MESSAGE_BYTES + 1)) == "too_large"
        assert service.reports.names() == ["request_refused"] * 4


def test_a_list_is_served_once_there_is_one(federation: Federation) -> None:
    """Before anybody was revoked there is none, and that is said."""
    with serving(federation) as service:
        hub = stranger(service)
        assert reason(hub, "GET", "/v1/crl") == "not_found"
        (federation.ca / "crl.pem").write_bytes(b"a list")
        assert hub.get("/v1/crl") == b"a list"
        assert reason(hub, "GET", "/v1/crl-dual") == "not_found"
        (federation.ca / "crl-dual.pem").write_bytes(b"two lists")
        assert hub.get("/v1/crl-dual") == b"two lists"


def test_how_far_a_request_is(federation: Federation, tmp_path: Path) -> None:
    """Whoever knows a token's name can ask, and learns one word."""
    with serving(federation, by_hand=True) as service:
        token = service.token("west")
        hub, path = stranger(service), f"/v1/join/{token.keys.token_id}"
        assert hub.get(path) == b'{"state": "open"}'
        with pytest.raises(PqflError):
            service.joiner(token, tmp_path / "west").join()
        assert hub.get(path) == b'{"state": "pending"}'
        assert reason(hub, "GET", f"/v1/join/{'0' * 32}") == "unknown_token"


def test_too_many_requests_are_refused(federation: Federation) -> None:
    """The limit is told apart from every other refusal."""
    with serving(federation, requests_per_minute=2) as service:
        hub = stranger(service)
        assert reason(hub, "POST", "/v1/join") == "malformed"
        assert reason(hub, "GET", f"/v1/join/{'0' * 32}") == "unknown_token"
        with pytest.raises(PeerError) as caught:
            hub.post("/v1/join", lambda _binding: b"")
        assert caught.value.reason == "busy"


def test_documents_have_a_budget_of_their_own(federation: Federation) -> None:
    """Many sites behind one address fetch theirs while one of them asks too often to join; there is an end as well."""
    with serving(federation, requests_per_minute=1) as service:
        hub = stranger(service)
        assert reason(hub, "POST", "/v1/join") == "malformed"
        assert reason(hub, "POST", "/v1/join") == "busy"
        with persistent(hub) as connection:
            statuses = [fetched(connection, path) for path in ("/v1/ca", "/v1/roster") * 50]
            assert set(statuses) == {200}
            assert fetched(connection, "/v1/ca") == 429
        assert reason(hub, "GET", "/v1/roster") == "busy"


def test_a_document_that_is_known_is_not_sent_again(federation: Federation) -> None:
    """Whoever says which one he has is told that it is still that one, and gets the next when there is one."""
    with serving(federation) as service, persistent(stranger(service)) as connection:
        connection.request("GET", "/v1/roster")
        answer = connection.getresponse()
        assert answer.read() == federation.roster.read_bytes()
        known = {"If-None-Match": answer.headers["ETag"]}
        assert fetched(connection, "/v1/roster", known) == 304
        federation.authority.issue(profile="site", name="south", out=federation.site("south"))
        assert fetched(connection, "/v1/roster", known) == 200


def test_what_is_wrong_with_our_files_is_for_our_log(federation: Federation, tmp_path: Path) -> None:
    """Without the issuing key a site learns that it cannot be done now, and no path; the same request works later."""
    key = federation.ca / "issuing.key"
    with serving(federation) as service:
        joiner = service.joiner(service.token("west"), tmp_path / "west")
        data = key.read_bytes()
        key.unlink()
        with pytest.raises(PlatformError) as caught:
            joiner.join()
        assert caught.value.reason == "not_ready"
        assert str(federation.ca) not in str(caught.value)
        assert str(key) in str(service.reports.events)
        key.write_bytes(data)
        key.chmod(0o600)
        joiner.join()


def test_a_certificate_is_needed_only_where_it_is_renewed(federation: Federation, tmp_path: Path) -> None:
    """A site that was let in joins no second time over its own certificate: a token is what counts."""
    with serving(federation) as service:
        token = service.token("west")
        service.joiner(token, tmp_path / "west").join()
        with pytest.raises(MessageError):
            service.joiner(token, tmp_path / "again").join()
