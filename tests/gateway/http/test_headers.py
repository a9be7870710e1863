"""What is said about one hop stays there, and who is there is said by the gateway alone."""

from multidict import CIMultiDict, CIMultiDictProxy

from gateway.http.headers import client_cert_field, forwarded_field, to_backend, to_peer
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
