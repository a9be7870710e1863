"""Proxies: what is sent, what is accepted, and that the tunnel's bytes and the password stay where they belong."""

import base64
import traceback
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxies import MAX_ANSWER_BYTES, Conversation, Proxy
from pqfl_transport.errors import ConfigurationError, PqflError, TransportError
from pqfl_transport.net.address import Address

HUB = Address("hub.example", 443)
SOCKS_GRANTED = bytes.fromhex("05000001 7f000001 1f90")


def http(user: str = "") -> Proxy:
    return Proxy.parse(f"http://{user}proxy.example:3128", "--proxy")


def socks(user: str = "") -> Proxy:
    return Proxy.parse(f"socks5://{user}proxy.example:1080", "--proxy")


def opened(conversation: Conversation, *answers: bytes) -> list[bytes]:
    """Exchange with a scripted proxy; return what was sent to it. The last answer has to open the tunnel."""
    sent = []
    for answer in answers:
        sent.append(conversation.data_to_send())
        assert not conversation.complete
        assert conversation.receive(answer) == b""
    assert conversation.complete
    assert conversation.data_to_send() == b""
    return sent


def refusal(conversation: Conversation, *answers: bytes) -> str:
    """Exchange with a scripted proxy whose last answer is refused; return the sentence."""
    for answer in answers[:-1]:
        conversation.data_to_send()
        conversation.receive(answer)
    with pytest.raises(TransportError) as caught:
        conversation.receive(answers[-1])
    assert caught.value.reason == "proxy_refused"
    assert str(caught.value).startswith("target hub.example:443 through proxy ")
    assert not conversation.complete
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "scheme", "address"),
    [
        ("http://proxy.example:3128", "http", Address("proxy.example", 3128)),
        ("HTTP://10.0.0.1:3128/", "http", Address("10.0.0.1", 3128)),
        ("socks5://[2001:db8::1]:1080", "socks5", Address("2001:db8::1", 1080)),
        ("socks5://[fe80::1%25eth0]:1080", "socks5", Address("fe80::1%eth0", 1080)),
    ],
)
def test_urls(url: str, scheme: str, address: Address) -> None:
    """Scheme, host and port; without a user nobody authenticates."""
    proxy = Proxy.parse(url, "--proxy")
    assert (proxy.scheme, proxy.address, proxy.user) == (scheme, address, None)
    assert str(proxy) == f"{scheme}://{address}"


def test_user_and_password_are_decoded_and_never_shown() -> None:
    """Percent-encoding is undone; the password is in no text of the proxy."""
    proxy = Proxy.parse("http://dr%40site:s%3Acret%2Fw%C3%B6rd@proxy.example:3128", "--proxy")
    assert (proxy.user, proxy.password) == (b"dr@site", "s:cret/wörd".encode())
    for text in (repr(proxy), str(proxy), f"{proxy}"):
        assert "cret" not in text
    assert "dr" not in str(proxy)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hun/ter2@proxy.example:1",
        "http://u:hun#ter2@proxy.example:1",
        "http://u:hun?ter2@proxy.example:1",
        "http://u:hunter2@proxy.example",
        "http://u:hunter2@proxy.example:0",
        "http://u:hunter2@proxy.example:65536",
        "http://u:hunter2@proxy.example:port",
        "http://u:hunter2@:3128",
        "http://u:hunter2@[proxy]:3128",
        "http://u:hunter2@[::1:3128",
        "http://u:hunter2@pro xy:3128",
        "http://u:hunter2@proxy.example:3128/path",
        "http://u:hunter2@proxy.example:3128?a=b",
        "http://u:hunter2@proxy.example:3128#a",
        "https://u:hunter2@proxy.example:3128",
        "socks4://u:hunter2@proxy.example:1080",
        "u:hunter2@proxy.example:3128",
        "http://u:hunter2%0d%0a@proxy.example:3128",
        "http://u:" + "hunter2" * 40 + "@proxy.example:3128",
        "http://a%3Ab:hunter2@proxy.example:3128",
        "socks5://:hunter2@proxy.example:1080",
    ],
)
def test_a_bad_url_is_refused_without_repeating_it(url: str) -> None:
    """A password with a character that was not encoded ends up anywhere in a URL, so nothing of it is shown."""
    with pytest.raises(ConfigurationError, match=r"^--proxy: ") as caught:
        Proxy.parse(url, "--proxy")
    assert caught.value.reason == "bad_proxy"
    shown = "".join(traceback.format_exception_only(caught.value))
    assert not any(part in shown for part in ("hun", "ter2"))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_user_of_socks_needs_a_password() -> None:
    """RFC 1929 has no empty ones; an HTTP proxy may do without."""
    with pytest.raises(ConfigurationError, match="password"):
        socks("user@")
    assert http("user@").password == b""


@given(st.text(max_size=40))
def test_any_text_is_a_proxy_or_refused(text: str) -> None:
    """No URL makes the parser fail in another way than by its own error."""
    for prefix in ("", "http://", "socks5://u:p@"):
        try:
            proxy = Proxy.parse(prefix + text, "--proxy")
        except ConfigurationError:
            continue
        assert proxy.address.port


@pytest.mark.parametrize("target", [Address(path="/run/a.sock"), Address("fe80::1%eth0", 1), Address(activation="a")])
def test_what_a_proxy_cannot_reach(target: Address) -> None:
    """Paths and zones mean something on this machine only."""
    with pytest.raises(ConfigurationError, match="proxy"):
        http().conversation(target)


def test_http_connect() -> None:
    """The request of RFC 9110 §9.3.6, and whatever is a success opens the tunnel."""
    for status in (b"200 OK", b"204 No Content", b"299"):
        sent = opened(http().conversation(HUB), b"HTTP/1.1 " + status + b"\r\nVia: 1.1 a\r\n\r\n")
        assert sent == [b"CONNECT hub.example:443 HTTP/1.1\r\nHost: hub.example:443\r\n\r\n"]


def test_http_connect_to_ipv6() -> None:
    """An authority has brackets."""
    conversation = http().conversation(Address("2001:db8::1", 443))
    assert conversation.data_to_send().startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")


def test_http_connect_with_a_password() -> None:
    """Basic authentication of RFC 7617, in UTF-8."""
    (sent,) = opened(http("me:p%C3%A4ss%3A@").conversation(HUB), b"HTTP/1.0 200 Connection established\r\n\r\n")
    (line,) = (line for line in sent.split(b"\r\n") if line.startswith(b"Proxy-Authorization: Basic "))
    assert base64.b64decode(line.rpartition(b" ")[2]) == "me:päss:".encode()
    assert sent.endswith(b"\r\n\r\n")


def test_interim_answers_do_not_count() -> None:
    """The answer that counts comes after any number of 1xx ones."""
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    opened(http().conversation(HUB), answer)


@pytest.mark.parametrize(
    "status", ["301 Moved", "403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"]
)
def test_what_is_no_success_is_shown(status: str) -> None:
    """The operator sees the proxy's own words."""
    assert f"'HTTP/1.1 {status}'" in refusal(http().conversation(HUB), f"HTTP/1.1 {status}\r\n\r\n".encode())


def test_a_status_line_cannot_forge_a_line_of_the_log() -> None:
    """Control characters are escaped, and what is shown has an end."""
    shown = refusal(http().conversation(HUB), b"HTTP/1.1 403 a\x1b[2J\nb" + b"c" * 1000 + b"\r\n\r\n")
    assert shown.isprintable()
    assert len(shown) < 400


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
        b"HTTP/1.1 \xb2\xb0\xb0 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_is_no_http_opens_no_tunnel(answer: bytes) -> None:
    """Another service on that port is not taken for a proxy."""
    assert "HTTP" in refusal(http().conversation(HUB), answer)


def test_an_answer_without_end_is_refused() -> None:
    """8 KiB are enough; an end that comes later is too late, and one just before is in time."""
    head = b"HTTP/1.1 200 OK\r\nA: "
    fits = head + b"a" * (MAX_ANSWER_BYTES - len(head) - 4) + b"\r\n\r\n"
    opened(http().conversation(HUB), fits)
    assert "longer" in refusal(http().conversation(HUB), fits[:-4] + b"a\r\n\r\n")
    assert "longer" in refusal(http().conversation(HUB), b"a" * MAX_ANSWER_BYTES)
    assert "longer" in refusal(http().conversation(HUB), b"HTTP/1.1 100 Continue\r\n\r\n" * 400)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_a_proxy_that_closes_is_named(answer: bytes) -> None:
    """At once, or in the middle of its answer."""
    answers = [answer, b""] if answer else [b""]
    assert "closed" in refusal(http().conversation(HUB), *answers)
    assert "closed" in refusal(socks().conversation(HUB), b"\x05", b"")


def test_socks() -> None:
    """Greeting and request of RFC 1928; the proxy resolves the name."""
    sent = opened(socks().conversation(HUB), b"\x05\x00", SOCKS_GRANTED)
    assert sent == [b"\x05\x01\x00", b"\x05\x01\x00\x03\x0bhub.example\x01\xbb"]


@pytest.mark.parametrize(
    ("host", "encoded"),
    [
        ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
        ("2001:db8::1", bytes.fromhex("04 20010db8 00000000 00000000 00000001")),
        ("a" * 255, b"\x03\xff" + b"a" * 255),
    ],
)
def test_socks_addresses(host: str, encoded: bytes) -> None:
    """IPv4, IPv6, and the longest name there can be."""
    sent = opened(socks().conversation(Address(host, 443)), b"\x05\x00", SOCKS_GRANTED)
    assert sent[1] == b"\x05\x01\x00" + encoded + b"\x01\xbb"


def test_socks_with_a_password() -> None:
    """Both ways are offered, and RFC 1929 is spoken when the proxy chooses that one."""
    conversation = socks("me:secret@").conversation(HUB)
    sent = opened(conversation, b"\x05\x02", b"\x01\x00", SOCKS_GRANTED)
    assert sent[:2] == [b"\x05\x02\x00\x02", b"\x01\x02me\x06secret"]


def test_socks_does_without_the_password_where_the_proxy_does() -> None:
    """A proxy that trusts this machine is not told the password."""
    sent = opened(socks("me:secret@").conversation(HUB), b"\x05\x00", SOCKS_GRANTED)
    assert not any(b"secret" in data for data in sent)


@pytest.mark.parametrize(
    "granted",
    [
        bytes.fromhex("05000001 00000000 0000"),
        bytes.fromhex("05000004") + bytes(18),
        b"\x05\x00\x00\x03\x05proxy\x00\x01",
        b"\x05\x00\x00\x03\x00\x00\x01",
    ],
)
def test_socks_answers_with_any_address(granted: bytes) -> None:
    """The address it connects from is read to its end, of whatever type."""
    opened(socks().conversation(HUB), b"\x05\x00", granted)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([b"HT"], "does not speak SOCKS5"),
        ([b"\x04\x00"], "does not speak SOCKS5"),
        ([b"\x05\x02"], "wants a user and a password"),
        ([b"\x05\x01"], "no way to authenticate"),
        ([b"\x05\xff"], "no way to authenticate"),
        ([b"\x05\x00", b"\x05\x02\x00\x01"], "its rules do not allow"),
        ([b"\x05\x00", b"\x05\x05\x00\x01"], "the target refuses"),
        ([b"\x05\x00", b"\x05\x63\x00\x01"], "code 99"),
        ([b"\x05\x00", b"\x04\x00\x00\x01"], "does not speak SOCKS5"),
        ([b"\x05\x00", b"\x05\x00\x00\x07"], "type 7"),
    ],
)
def test_socks_refusals(answers: list[bytes], words: str) -> None:
    """Each has its own sentence."""
    assert words in refusal(socks().conversation(HUB), *answers)


def test_socks_refuses_the_password() -> None:
    """The sentence has no password in it."""
    shown = refusal(socks("me:secret@").conversation(HUB), b"\x05\x02", b"\x01\x01")
    assert "does not accept user and password" in shown
    assert "secret" not in shown
    assert refusal(socks("me:secret@").conversation(HUB), b"\x05\xff").endswith("it was offered")


@given(
    proxy=st.sampled_from(
        [
            (http(), [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n"]),
            (socks(), [b"\x05\x00", SOCKS_GRANTED]),
            (socks("me:secret@"), [b"\x05\x02", b"\x01\x00", b"\x05\x00\x00\x03\x05proxy\x00\x01"]),
        ]
    ),
    tunnel=st.binary(max_size=60),
    cuts=st.lists(st.integers(1, 200), max_size=8),
)
def test_the_bytes_of_the_tunnel_are_given_back(
    proxy: tuple[Proxy, list[bytes]], tunnel: bytes, cuts: list[int]
) -> None:
    """However the answers are cut and whatever follows them, exactly what follows comes back."""
    conversation = proxy[0].conversation(HUB)
    stream = b"".join(proxy[1]) + tunnel
    edges = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    rest = b"".join(conversation.receive(stream[a:b]) for a, b in pairwise(edges))
    assert conversation.complete
    assert rest == tunnel


@given(proxy=st.sampled_from([http(), socks(), socks("me:secret@")]), data=st.lists(st.binary(max_size=40), max_size=8))
def test_no_answer_breaks_the_conversation(proxy: Proxy, data: list[bytes]) -> None:
    """Whatever comes, there is a tunnel, a refusal, or a wait for more."""
    conversation = proxy.conversation(HUB)
    try:
        for piece in data:
            conversation.receive(piece)
    except PqflError as error:
        assert error.reason == "proxy_refused"  # noqa: PT017 -- most answers are refused, some wait for more
