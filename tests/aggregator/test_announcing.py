"""Terms of a round, and what a site is told of them."""

import pytest

from aggregator.announcing import Announced
from aggregator.intake import Collecting
from aggregator.publishing import Model
from aggregator.rounds import Round
from pqfl_transport.aggregation.round_document import RoundState, TensorSchema
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.pki.spiffe import Role
from tests.support.pki import Federation, make_federation
from tests.support.rounds import MODEL, kept_updates, membership

KEY = ReceivingKey.generate("ML-KEM-768+X25519")
SUITE = "pqfl/v1/mlkem768x25519-mldsa65"
NOW = 1000.25


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a",))


@pytest.fixture
def announced(federation: Federation) -> Announced:
    member = membership(federation, federation.aggregator, Role.AGGREGATOR)
    model = Model(2, SUITE, MODEL, b"d" * 32, 500, (TensorSchema("w", "F32", (2, 3)),), b"s" * 32)
    return Announced(member, model, 3, SUITE, 1)


def test_each_opening_has_a_challenge_of_its_own(announced: Announced) -> None:
    """Everything else of two openings with one key is the same."""
    first, second = (announced.new_terms(KEY.fingerprint, frozenset({"a"}), NOW) for _ in range(2))
    assert len(first.challenge) == 32
    assert first.challenge != second.challenge
    assert (first.deadline, first.not_after) == (NOW, 1061)
    assert first.max_plaintext_bytes > 500


def test_a_round_that_takes_updates_is_told_with_challenge_and_key(
    federation: Federation, announced: Announced
) -> None:
    """As its terms say, also where the suite of the next one would be another."""
    terms = announced.new_terms(KEY.fingerprint, frozenset({"a"}), NOW + 60)
    collecting = Collecting(Round(terms), KEY, MODEL, kept_updates(federation))
    document = announced.document("0" * 32, RoundState.COLLECTING, collecting, NOW)
    assert (document.round, document.model_version, document.suite) == (3, 2, SUITE)
    assert (document.challenge, document.receiving_key) == (terms.challenge, KEY.public.to_bytes())
    assert (document.deadline, document.not_after) == (1060, terms.not_after)


def test_without_one_there_is_nothing_to_seal_to(announced: Announced) -> None:
    """The document is good for a minute."""
    document = announced.document("0" * 32, RoundState.AGGREGATING, None, NOW)
    assert (document.challenge, document.receiving_key) == (b"", b"")
    assert (document.deadline, document.not_after) == (1000, 1060)
