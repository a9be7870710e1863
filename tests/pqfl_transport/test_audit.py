"""The audit log: a chain that shows every change, checkpoints that show who vouches, and torn lines kept."""

import json
import stat
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pqfl_transport.audit import AuditLog, EventKind, verify_audit_log
from pqfl_transport.crypto.pyca import SigningKey
from pqfl_transport.errors import ConfigurationError, MessageError, PlatformError

KEY = SigningKey.from_seed("ML-DSA-44", bytes(32))
OTHER = SigningKey.from_seed("ML-DSA-44", bytes([1]) * 32)


def write_log(path: Path, events: int, **options: object) -> None:
    ticks = count(1_800_000_000)
    with AuditLog(path, clock=lambda: float(next(ticks)), **options) as log:  # type: ignore[arg-type]
        for number in range(events):
            log.event(EventKind.UPDATE, sender="spiffe://fed/site/a", number=number, note="größe\n")


def test_chain_verifies(tmp_path: Path) -> None:
    """A log as written verifies, and the summary counts its lines, checkpoints and times."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 5, signing_key=KEY, checkpoint_every=2)
    summary = verify_audit_log(path, [KEY.verifying_key])
    # Two checkpoints on the way, one at the close.
    assert (summary.lines, summary.checkpoints, summary.sealed_lines, summary.torn_lines) == (8, 3, 8, 0)
    assert summary.first_time == "2027-01-15T08:00:00.000000Z"


def test_file_is_private_and_one_json_line_an_event(tmp_path: Path) -> None:
    """The file has mode 0600 and each line is one JSON object with the promised fields."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [0, 1]
    assert set(lines[0]) == {"seq", "time", "kind", "facts", "prev", "hash"}
    assert lines[1]["prev"] == lines[0]["hash"]


def test_an_event_is_in_the_file_at_once(tmp_path: Path) -> None:
    """An event can be read from the file before the log is closed."""
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        log.event(EventKind.START)
        assert verify_audit_log(path, None).lines == 1


def test_reopening_continues_the_chain(tmp_path: Path) -> None:
    """A second process goes on with the sequence and hash of the first."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 3)
    write_log(path, 2)
    assert verify_audit_log(path, None).lines == 5


@pytest.mark.parametrize("line", range(4))
def test_every_change_is_found(tmp_path: Path, line: int) -> None:
    """Changing a fact in any line is found and the line is named."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"site/a", b"site/b")
    path.write_bytes(b"".join(lines))
    with pytest.raises(MessageError, match=f"line {line + 1}") as caught:
        verify_audit_log(path, None)
    assert caught.value.reason in {"audit_chain", "torn"}


def test_dropped_and_swapped_lines_are_found(tmp_path: Path) -> None:
    """A missing line and two lines in the wrong order both break the chain."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    for forged in ([lines[0], *lines[2:]], [lines[0], lines[2], lines[1], lines[3]], lines[1:]):
        path.write_bytes(b"".join(forged))
        with pytest.raises(MessageError) as caught:
            verify_audit_log(path, None)
        assert caught.value.reason == "audit_chain"


def test_a_line_must_be_canonical(tmp_path: Path) -> None:
    """The same facts in another spelling are refused: the hash is over exact bytes."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 2)
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first.replace(",", ", ", 1) + second)
    with pytest.raises(MessageError, match="line 1"):
        verify_audit_log(path, None)


def test_a_rewritten_chain_has_no_valid_checkpoint(tmp_path: Path) -> None:
    """A whole new chain signed by another key is refused as an unknown signer, a foreign signature as bad."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 2, signing_key=OTHER)
    with pytest.raises(MessageError, match="line 3") as caught:
        verify_audit_log(path, [KEY.verifying_key])
    assert caught.value.reason == "unknown_signer"


def test_a_checkpoint_with_a_forged_signature_is_refused(tmp_path: Path) -> None:
    """A checkpoint that names a known signer but was signed by another key is refused."""

    class Forger:
        """Signs with one key in the name of another."""

        algorithm = KEY.algorithm
        verifying_key = KEY.verifying_key
        sign = OTHER.sign

    path = tmp_path / "audit.jsonl"
    write_log(path, 1, signing_key=Forger())
    with pytest.raises(MessageError) as caught:
        verify_audit_log(path, [KEY.verifying_key])
    assert caught.value.reason == "bad_signature"


def test_a_torn_last_line_is_an_error_until_recorded(tmp_path: Path) -> None:
    """A log cut in the middle of its last line does not verify."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 2)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MessageError) as caught:
        verify_audit_log(path, None)
    assert caught.value.reason == "torn"


def test_a_torn_last_line_is_kept_and_recorded_on_reopening(tmp_path: Path) -> None:
    """Reopening keeps the torn bytes, records their hash, reports them, and the log verifies again."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 2)
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    with AuditLog(path) as log:
        assert log.torn_bytes == len(torn.splitlines()[1])
        log.event(EventKind.START)
    assert path.read_bytes().startswith(torn)
    summary = verify_audit_log(path, None)
    assert (summary.lines, summary.torn_lines) == (3, 1)
    path.write_bytes(path.read_bytes().replace(torn.splitlines()[1], b"forged"))
    with pytest.raises(MessageError):
        verify_audit_log(path, None)


def test_a_missing_last_newline_is_put_back(tmp_path: Path) -> None:
    """When only the newline was lost, the event counts and nothing is called torn."""
    path = tmp_path / "audit.jsonl"
    write_log(path, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with AuditLog(path) as log:
        assert log.torn_bytes == 0
        log.event(EventKind.START)
    assert verify_audit_log(path, None).lines == 3


def test_a_file_that_is_no_log_is_not_continued(tmp_path: Path) -> None:
    """Another file, or a log whose last line was changed, is refused instead of appended to."""
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"something else\n")
    with pytest.raises(MessageError, match="last line"):
        AuditLog(path)
    assert path.read_bytes() == b"something else\n"


def test_two_writers_are_refused(tmp_path: Path) -> None:
    """A second writer is refused, because it would fork the chain."""
    with AuditLog(tmp_path / "audit.jsonl"), pytest.raises(ConfigurationError, match="in use"):
        AuditLog(tmp_path / "audit.jsonl")


def test_unusable_arguments(tmp_path: Path) -> None:
    """A folder that does not exist and a checkpoint interval of nothing are configuration errors."""
    with pytest.raises(ConfigurationError, match="missing"):
        AuditLog(tmp_path / "missing" / "audit.jsonl")
    with pytest.raises(ConfigurationError, match="checkpoint_every"):
        AuditLog(tmp_path / "audit.jsonl", checkpoint_every=0)
    with pytest.raises(ConfigurationError, match="missing"):
        verify_audit_log(tmp_path / "missing", None)


def test_a_closed_log_refuses_events(tmp_path: Path) -> None:
    """An event after closing is an error, not a lost event; closing twice is harmless."""
    log = AuditLog(tmp_path / "audit.jsonl")
    log.close()
    log.close()
    with pytest.raises(PlatformError):
        log.event(EventKind.STOP)


def test_an_overlong_event_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    """An event above the size of a line is refused and the chain goes on."""
    with AuditLog(tmp_path / "audit.jsonl") as log:
        with pytest.raises(ConfigurationError):
            log.event(EventKind.UPDATE, text="x" * 70_000)
        log.event(EventKind.STOP)
    assert verify_audit_log(tmp_path / "audit.jsonl", None).lines == 1


_FACTS = st.dictionaries(
    st.text(max_size=8),
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(allow_nan=False, allow_infinity=False),
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(events=st.lists(_FACTS, max_size=6), cut=st.integers(min_value=1))
def test_any_cut_is_found_or_leaves_a_valid_prefix(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, object]], cut: int
) -> None:
    """Cutting a log anywhere either shows as torn or leaves whole lines; it never verifies with more than it has."""
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    with AuditLog(path) as log:
        for facts in events:
            log._append(EventKind.UPDATE, facts)
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    if kept.endswith(b"\n") or not kept:
        assert verify_audit_log(path, None).lines == kept.count(b"\n")
    else:
        with pytest.raises(MessageError):
            verify_audit_log(path, None)


def test_another_key_signs_from_then_on(tmp_path: Path) -> None:
    """What came before is under the key of its time; both are needed to verify, and none is invented without one."""
    path, other = tmp_path / "audit.jsonl", SigningKey.generate("ML-DSA-65")
    with AuditLog(path, signing_key=KEY) as audit:
        audit.sign_with(KEY)
        audit.event(EventKind.START)
        audit.sign_with(other)
        audit.sign_with(other)
        audit.event(EventKind.STOP)
    summary = verify_audit_log(path, [KEY.verifying_key, other.verifying_key])
    assert (summary.lines, summary.checkpoints, summary.sealed_lines) == (4, 2, 4)
    for one in (KEY, other):
        with pytest.raises(MessageError) as caught:
            verify_audit_log(path, [one.verifying_key])
        assert caught.value.reason == "unknown_signer"
    with AuditLog(tmp_path / "unsigned.jsonl") as audit:
        audit.sign_with(other)
        audit.event(EventKind.START)
    assert verify_audit_log(tmp_path / "unsigned.jsonl", [other.verifying_key]).checkpoints == 0
