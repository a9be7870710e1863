"""The profile for Flower's SuperLink: sites reach the fleet interface and nothing else, and nobody speaks for another.

The SuperLink serves three interfaces on one port; the control interface starts programs on every site, so a site's
certificate must not reach it. A SuperNode gets its number when it registers or activates; the number is bound to the
TLS identity that got it, and every later message that names a number has to come from there, both as the node that asks
and as the source of a reply. A number that was given out before the gateway was started is bound to who uses it first.
A binding outlives the node's deactivation: the same node comes back under its number.

A SuperNode ends itself on status 401 and 403, and takes others for the end of a run; 503 it retries with back-off, so
that is how it is refused. Which paths exist is no secret: what is not the fleet's is a 404.
"""

from collections import OrderedDict
from collections.abc import Sequence

from aiohttp import web

from gateway.http.profiles import Admitted, Session
from gateway.http.protobuf import FieldReader, Value, fields_of
from gateway.http.rules import Rule, matches, require_allowed
from pqfl_transport.errors import PeerError, PqflError

_FLEET = "/v1/fleet/*"
_MAX_BINDINGS = 100_000
_NOT_FOUND, _UNAVAILABLE = 404, 503

# In requests field 1 is the node, as a message whose field 1 is its number, or the number itself; the two that get a
# number have it in the answer.
_FIELD = 1
# Whose reply a pushed message is the SuperLink takes from the message itself: messages_list, metadata, src_node_id.
_PUSHES = "/v1/fleet/push-messages"
_SOURCE = (2, 1, 3)
_GETS_NUMBER = frozenset({"/v1/fleet/register-node", "/v1/fleet/activate-node"})


class FlowerGuard:
    """Sees to it that each site reaches the fleet interface as itself."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = tuple(rules) or (("POST", _FLEET),)
        self._owners: OrderedDict[int, str] = OrderedDict()

    async def admit(self, request: web.BaseRequest, path: str, session: Session) -> Admitted:
        """Let a fleet request pass whose node is the peer's own."""
        require_allowed(request.method, path, self._rules)
        if not matches(_FLEET, path):
            return Admitted()
        peer = session.peer.name
        if path in _GETS_NUMBER:
            return Admitted(watch_answer=_Claims(self, peer, (_FIELD,)))
        watches = [_Claims(self, peer, (_FIELD,))]
        if path == _PUSHES:
            watches.append(_Claims(self, peer, _SOURCE))

        def watch(piece: bytes) -> None:
            for one in watches:
                one(piece)

        return Admitted(watch=watch)

    def claim(self, node: int, peer: str) -> None:
        """Bind a node to a peer, or see that it is bound to it.

        Raises ``PeerError``: ``node_of_another``, or ``no_node`` for the number that stands for none.
        """
        if not node:
            # Bound, it would keep everybody else who leaves the number out from being told what is wrong.
            raise PeerError("the message names no node", reason="no_node")
        owner = self._owners.setdefault(node, peer)
        self._owners.move_to_end(node)
        if len(self._owners) > _MAX_BINDINGS:
            self._owners.popitem(last=False)
        if owner != peer:
            raise PeerError(f"node {node} belongs to {owner} and not to {peer}", reason="node_of_another")

    def status_of(self, error: PqflError) -> int:
        """Return 404 for what does not pass here, and for the rest what a SuperNode tries again after."""
        return _NOT_FOUND if error.reason in {"path_not_allowed", "bad_path"} else _UNAVAILABLE


class _Claims:
    """Sees a message pass and claims every number at one place in it for a peer, before that piece goes on."""

    def __init__(self, guard: FlowerGuard, peer: str, path: tuple[int, ...]) -> None:
        self._guard, self._peer = guard, peer
        self._reader = FieldReader(*path)

    def __call__(self, piece: bytes) -> None:
        values = self._reader.values
        self._reader.feed(piece)
        for value in values:
            self._guard.claim(_number(value), self._peer)
        values.clear()


def _number(value: Value) -> int:
    if isinstance(value, int):
        return value
    numbers = [inner for inner in fields_of(value, _FIELD) if isinstance(inner, int)]
    # A number of zero is not written out.
    return numbers[-1] if numbers else 0
