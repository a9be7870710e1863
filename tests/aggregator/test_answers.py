"""What handlers share: problem documents and numbers in paths."""

import json

import pytest
from aiohttp.test_utils import make_mocked_request

from aggregator.answers import path_number, problem
from pqfl_transport.errors import MessageError, RoundError


def test_an_error_becomes_its_problem_document() -> None:
    """Status, media type, reason and the members that belong to this problem."""
    answer = problem(RoundError("too late", reason="closed"), {"Upload-Complete": "?0"}, {"expected-offset": 3})
    assert (answer.status, answer.content_type) == (409, "application/problem+json")
    assert answer.headers["Upload-Complete"] == "?0"
    assert isinstance(answer.body, bytes)
    document = json.loads(answer.body)
    assert (document["reason"], document["detail"], document["expected-offset"]) == ("closed", "too late", 3)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9" * 19, "\u0661"])
def test_a_number_in_a_path_is_a_number(text: str) -> None:
    """Anything else has the reason that the handler names."""
    with pytest.raises(MessageError) as caught:
        path_number(make_mocked_request("GET", "/", match_info={"round": text}), "round", "unknown_round")
    assert caught.value.reason == "unknown_round"
    assert path_number(make_mocked_request("GET", "/", match_info={"round": "17"}), "round", "unknown_round") == 17
