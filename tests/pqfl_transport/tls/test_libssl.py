"""The door to OpenSSL: lists are never shortened in silence, callbacks outlive nobody, memory is handed over whole."""

import gc
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509

from pqfl_transport.errors import ConfigurationError, PlatformError
from pqfl_transport.tls import probe
from pqfl_transport.tls.libssl import Identity, Link, LinkFactory, Settings, Status, openssl_version

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CERTIFICATE, KEY = probe._throw_away("ML-DSA-65")


def settings(**changes: object) -> Settings:
    good = Settings(
        server=False, groups=("X25519MLKEM768",), signature_algorithms=("mldsa65",),
        cipher_suites=("TLS_AES_256_GCM_SHA384",), identities=(Identity(CERTIFICATE, KEY),), anchors=(CERTIFICATE,),
    )  # fmt: skip
    return replace(good, **changes)  # type: ignore[arg-type]


def link(*, server: bool) -> Link:
    """A link whose factory nobody else holds."""
    return LinkFactory(settings(server=server)).new_link(lambda _leaf, _error, _chain: 0, server_name=None, now=NOW)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"groups": ("X25519MLKEM768", "NoSuchGroup")}, "NoSuchGroup"),
        ({"signature_algorithms": ("mldsa65", "rainbow")}, "rainbow"),
        ({"cipher_suites": ("TLS_NONE",)}, "TLS_NONE"),
    ],
)
def test_an_unknown_name_in_a_list_is_an_error(changes: dict[str, object], named: str) -> None:
    """OpenSSL would drop a whole list for one unknown name; here the name is said."""
    with pytest.raises(PlatformError, match=named) as caught:
        LinkFactory(settings(**changes))
    assert caught.value.reason == "missing_algorithm"


def test_keys_that_do_not_fit_or_are_none() -> None:
    """Another key and no key at all are two errors."""
    _, other = probe._throw_away("ML-DSA-65")
    with pytest.raises(ConfigurationError) as caught:
        LinkFactory(settings(identities=(Identity(CERTIFICATE, other),)))
    assert caught.value.reason == "key_mismatch"
    with pytest.raises(ConfigurationError) as caught:
        LinkFactory(settings(identities=(Identity(CERTIFICATE, b"no key"),)))
    assert caught.value.reason == "bad_key"


def test_callbacks_live_as_long_as_their_connections() -> None:
    """Connections whose factory nobody holds any more still reach their own judge."""
    judged: list[bytes] = []

    def judge(leaf: bytes, _error: int, _chain: object) -> int:
        judged.append(leaf)
        return 0

    client = LinkFactory(settings()).new_link(judge, server_name=None, now=NOW)
    server = LinkFactory(settings(server=True)).new_link(judge, server_name=None, now=NOW)
    for _ in range(20):
        link(server=True)
    gc.collect()
    assert probe._shake_hands(client, server) == ""
    assert [x509.load_der_x509_certificate(leaf) for leaf in judged] == [CERTIFICATE, CERTIFICATE]


def test_data_goes_through_memory() -> None:
    """What one writes the other reads, in one call for a whole buffer; a full buffer says that there is more."""
    client, server = link(server=False), link(server=True)
    assert probe._shake_hands(client, server) == ""
    data = bytes(range(256)) * 400
    assert client.write(data) == (len(data), Status.DONE)
    server.feed(client.take(1 << 20))
    small = memoryview(bytearray(1000))
    assert server.read_into(small) == (1000, Status.DONE)
    rest = memoryview(bytearray(1 << 20))
    count, status = server.read_into(rest)
    assert (bytes(small) + bytes(rest[:count]), status) == (data, Status.WANT_READ)
    assert client.write(b"") == (0, Status.DONE)


def test_an_end_and_a_cut_are_told_apart() -> None:
    """close_notify is CLOSED, an end of the network without it is FAILED with its error."""
    client, server = link(server=False), link(server=True)
    assert probe._shake_hands(client, server) == ""
    client.send_close_notify()
    server.feed(client.take(1 << 16))
    assert server.read_into(memoryview(bytearray(10))) == (0, Status.CLOSED)
    assert server.close_notify_received
    client.feed_eof()
    assert client.read_into(memoryview(bytearray(10)))[1] is Status.FAILED
    assert [error.text for error in client.errors] == ["unexpected eof while reading"]


def test_the_version_is_that_of_the_library_in_use() -> None:
    """The text names OpenSSL and a version that has ML-KEM."""
    assert openssl_version().startswith("OpenSSL ")
