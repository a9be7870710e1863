"""Which requests pass, and that nothing passes by being spelled in another way."""

import pytest

from gateway.http.rules import matches, path_of, require_allowed, require_framing
from pqfl_transport.errors import MessageError, PeerError


@pytest.mark.parametrize(
    "target", ["/", "/v1/fleet/pull-messages", "/a/b?c=../d", "/a%20b", "/a.b/..c", "/a;b/c", "/%C3%BC", "/?%"]
)
def test_paths_that_mean_one_thing(target: str) -> None:
    """The query is not part of it."""
    assert path_of(target) == target.partition("?")[0]


@pytest.mark.parametrize(
    "target",
    [
        "", "a", "*", "http://other/v1", "//v1", "/v1//control", "/v1/../control", "/v1/./x", "/v1/%2e%2e/control",
        "/v1%2fcontrol", "/v1/%5ccontrol", "/v1\\control", "/v1/%00", "/v1/%252e", "/ü", "/a#b", "/" + "a" * 5000,
        "/v1/..;/control", "/v1/.;x/control", "/v1/%0d%0ax", "/v1/%1F", "/v1/%7f", "/v1/%zz", "/v1/%4", "/v1/%",
    ],
)  # fmt: skip
def test_paths_that_could_mean_two_are_refused(target: str) -> None:
    """Backends disagree on them, so none of them goes on."""
    with pytest.raises(MessageError) as caught:
        path_of(target)
    assert caught.value.reason == "bad_path"


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/v1/fleet/*", "/v1/fleet/x", True), ("/v1/fleet/*", "/v1/fleet/x/y", False),
        ("/v1/fleet/*", "/v1/fleet/", False),
        ("/v1/fleet/*", "/v1/control/x", False), ("/v1/*/x", "/v1/a/x", True), ("/**", "/anything/at/all", True),
        ("/v1/**", "/v1", False), ("/v1/**", "/v1/a/b", True), ("/v1/**", "/v2/a", False), ("/a", "/a", True),
        ("/a", "/A", False),
    ],
)  # fmt: skip
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    """A star is one segment with something in it, two are all that follow."""
    assert matches(pattern, path) is expected


def test_method_and_path_both_count() -> None:
    """A rule names both; a star is any method."""
    rules = (("POST", "/v1/fleet/*"), ("*", "/health"))
    require_allowed("POST", "/v1/fleet/x", rules)
    require_allowed("DELETE", "/health", rules)
    for method, path in (("GET", "/v1/fleet/x"), ("POST", "/v1/control/x")):
        with pytest.raises(PeerError) as caught:
            require_allowed(method, path, rules)
        assert caught.value.reason == "path_not_allowed"


def test_bodies_in_chunks_or_with_a_length() -> None:
    """Both versions of today may have a body; only the newer one has chunks."""
    require_framing((1, 1), ())
    require_framing((1, 0), ())
    require_framing((1, 1), ("Chunked",))


@pytest.mark.parametrize(
    ("version", "codings"),
    [((0, 9), ()), ((1, 0), ("chunked",)), ((1, 1), ("gzip, chunked",)), ((1, 1), ("chunked", "chunked"))],
)
def test_framing_that_would_be_lost_on_the_way_is_refused(version: tuple[int, int], codings: tuple[str, ...]) -> None:
    """The backend would read a compressed body as a plain one, or an end where there is none."""
    with pytest.raises(MessageError) as caught:
        require_framing(version, codings)
    assert caught.value.reason == "bad_framing"
