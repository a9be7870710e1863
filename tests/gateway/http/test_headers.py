"""What is said about one hop stays there, and who is there is said by the gateway alone."""

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.http.headers import client_cert_field, forwarded_field, to_backend, to_peer
from pqfl_transport.errors import MessageError, TransportError
from tests.support.peers import certified, peer


def fields(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_hop_by_hop_fields_end_here() -> None:
    """The standard ones and those that Connection names (RFC 9110 §7.6.1); duplicates and order of others stay."""
    passed = to_peer(
        fields(
            ("Connection", "close, X-Secret"), ("X-Secret", "1"), ("Transfer-Encoding", "chunked"), ("Upgrade", "h2c"),
            ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Keep-Alive", "5"), ("Content-Length", "3"),
        )
    )  # fmt: skip
    assert list(passed.items()) == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Length", "3")]


def test_identity_from_outside_is_replaced() -> None:
    """A peer cannot introduce itself as somebody else, in any spelling."""
    passed = to_backend(
        fields(
            ("Host", "hub"), ("x-forwarded-CLIENT-cert", "URI=spiffe://fed/site/other"), ("Forwarded", "for=other"),
            ("X-Forwarded-For", "1.2.3.4"), ("X-Real-IP", "1.2.3.4"), ("Expect", "100-continue"), ("Accept", "*/*"),
        ),
        peer(), "192.0.2.1:5", "spiffe://fed/gateway/hub",
    )  # fmt: skip
    assert passed.getall("X-Forwarded-Client-Cert") == [
        f'By=spiffe://fed/gateway/hub;Hash={"66" * 32};Subject="CN=somebody";URI=spiffe://fed/site/a'
    ]
    assert passed.getall("Forwarded") == ['for="192.0.2.1:5";proto=https;host="hub"']
    assert set(passed) == {"Host", "Accept", "X-Forwarded-Client-Cert", "Forwarded"}


def test_names_cannot_break_out_of_their_quotes() -> None:
    """What a certificate says is data: quotes and separators in it separate nothing."""
    odd = peer(certified=certified(None, subject='CN=a";URI=spiffe://fed/site/b', dns=("good.example", "x;URI=y")))
    field = client_cert_field(odd, "own")
    assert field == f'By=own;Hash={"66" * 32};Subject="CN=a\\";URI=spiffe://fed/site/b";DNS=good.example'
    assert forwarded_field('[::1]:5"', "a\\b") == 'for="[::1]:5\\"";proto=https;host="a\\\\b"'


@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_Client_Cert", "x_forwarded-for", "X-Forwarded-Prefix", "X_Real_IP", "True-Client-IP",
        "X-SSL-Client-Verify", "SSL_CLIENT_S_DN", "X-Original-URL", "X_Rewrite_Url",
    ],
)  # fmt: skip
def test_identity_in_other_spellings_is_removed(name: str) -> None:
    """A backend with CGI's names reads an underscore as a hyphen; others believe fields of other proxies."""
    passed = to_backend(fields(("Host", "hub"), (name, "evil")), peer(), "192.0.2.1:5", "own")
    assert "evil" not in passed.values()


def test_connection_cannot_name_host_and_length() -> None:
    """Where a request goes and where it ends stays as it was; what else is named still ends here."""
    pairs = (("Host", "hub"), ("Content-Length", "3"), ("Connection", "Host, content-length, X-A"), ("X-A", "1"))
    passed = to_backend(fields(*pairs), peer(), "192.0.2.1:5", "own")
    assert (passed["Host"], passed["Content-Length"], "X-A" in passed) == ("hub", "3", False)


def test_bytes_that_would_be_lost_are_refused() -> None:
    """A value that is no UTF-8 would arrive without those bytes; one that is passes."""
    odd, good = fields(("X-Name", "caf\udce9")), fields(("X-Name", "caf\u00e9"))
    with pytest.raises(MessageError) as refused:
        to_backend(odd, peer(), "192.0.2.1:5", "own")
    assert refused.value.reason == "bad_field"
    with pytest.raises(TransportError) as failed:
        to_peer(odd)
    assert failed.value.reason == "bad_answer"
    assert to_peer(good)["X-Name"] == to_backend(good, peer(), "192.0.2.1:5", "own")["X-Name"] == "caf\u00e9"


def test_a_gateway_without_a_uri_and_a_peer_without_an_address() -> None:
    """A name with commas is quoted; a unix socket is an identifier that is no address (RFC 7239 §6.3)."""
    assert client_cert_field(peer(), "CN=hub,O=fed").startswith('By="CN=hub,O=fed";Hash=')
    assert forwarded_field("unix", "h").startswith('for="_unix";')
