"""What the commands on envelopes share: files are named in errors, keys decide the policy."""

from pathlib import Path

import pytest

from pqfl.commands.reading import Reader, load_keys, load_signer, named, policy_for, sender_of
from pqfl_transport.algorithms import CONTENT_SUITES
from pqfl_transport.content.receiving_keys import ReceivingKeys
from pqfl_transport.content.recipients import ReceivingKey
from pqfl_transport.errors import ConfigurationError, MessageError, PolicyError
from pqfl_transport.pki import keystore
from pqfl_transport.pki.passphrases import fixed
from tests.support.pki import make_federation


def test_an_error_names_its_file_once(tmp_path: Path) -> None:
    """The file's name is put in front of an error that lacks it, and the class and reason stay."""

    def fail(text: str) -> None:
        raise MessageError(text, reason="because")

    with pytest.raises(MessageError, match=r"^/x/y: broken$") as caught:
        named(Path("/x/y"), lambda: fail("broken"))
    assert caught.value.reason == "because"
    with pytest.raises(MessageError, match=r"^in /x/y$"):
        named(Path("/x/y"), lambda: fail("in /x/y"))
    with pytest.raises(MessageError, match=r"^in /x/z$"):
        named(Path("/x/y"), lambda: fail("in /x/z"), Path("/x/z"))
    with pytest.raises(ConfigurationError, match="no such file"):
        Reader(tmp_path / "absent", fixed("x"))


def test_keys_decide_the_policy() -> None:
    """A signature algorithm and a KEM name a level; two that do not go together are refused by name."""
    assert policy_for("ML-DSA-65", "ML-KEM-768+X25519").level == "high"
    assert policy_for("ML-DSA-87", "ML-KEM-1024").level == "cnsa2"
    assert policy_for("ML-DSA-44", None).level == "standard"
    with pytest.raises(ConfigurationError, match="ML-KEM-1024"):
        policy_for("ML-DSA-44", "ML-KEM-1024")


def test_experimental_kems_have_to_be_asked_for() -> None:
    """No level lists them: a refusal of policy names the flag, and with it nothing but their own suite is allowed."""
    kem = "Classic-McEliece-348864+X25519"
    with pytest.raises(PolicyError, match="--allow-experimental") as caught:
        policy_for("ML-DSA-44", kem)
    assert caught.value.exit_status == 3
    policy = policy_for("ML-DSA-44", kem, experimental=True)
    assert [CONTENT_SUITES[suite].kem for suite in policy.content_suites] == [kem]
    assert not any(CONTENT_SUITES[suite].is_experimental for suite in policy_for("ML-DSA-44", None).content_suites)
    every = policy_for("ML-DSA-44", None, experimental=True).content_suites
    assert {suite for suite in CONTENT_SUITES if CONTENT_SUITES[suite].signature == "ML-DSA-44"} == set(every)
    with pytest.raises(ConfigurationError, match="no security level"):
        policy_for("ML-DSA-87", kem, experimental=True)


def test_a_sender_is_read_from_its_signing_certificate(tmp_path: Path) -> None:
    """A TLS certificate is refused for it, and a damaged key is refused by its file."""
    federation = make_federation(tmp_path, sites=("bank-a",))
    site = federation.site("bank-a")
    keystore.write_secret(tmp_path / "reader", ReceivingKey.generate("ML-KEM-768+X25519").to_pem())
    sender = sender_of(site / "signing.pem", Reader(tmp_path / "reader", fixed("x")))
    assert (sender.id, sender.policy.level) == (federation.site_uri("bank-a"), "high")
    with pytest.raises(Exception, match=r"tls\.pem"):
        load_signer(site / "tls.pem")
    keystore.write_secret(tmp_path / "damaged", b"-----BEGIN NOTHING-----\n")
    with pytest.raises(ConfigurationError, match="damaged"):
        Reader(tmp_path / "damaged", fixed("x"))


def test_a_reader_with_keys_of_several_kems_takes_what_the_sender_can_sign(tmp_path: Path) -> None:
    """A key that does not go together with the sender's does not keep the others from opening."""
    federation = make_federation(tmp_path, sites=("bank-a",))
    signing = federation.site("bank-a") / "signing.pem"
    keys = [ReceivingKey.generate(kem) for kem in ("ML-KEM-1024", "ML-KEM-768+X25519")]
    keystore.write_secret(tmp_path / "reader", ReceivingKeys.of(*keys).to_pem())
    assert sender_of(signing, Reader(tmp_path / "reader", fixed("x"))).policy.level == "high"
    keystore.write_secret(tmp_path / "other", keys[0].to_pem())
    with pytest.raises(ConfigurationError, match="ML-KEM-1024"):
        sender_of(signing, Reader(tmp_path / "other", fixed("x")))


def test_what_an_operator_has_to_know_of_extra_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is gone on without, and what a key manager said, each as one line on standard error."""
    assert load_keys(None) is None
    (tmp_path / "keys.toml").write_text(
        '[used]\nfile = "used.db"\n[qkd.north-south]\nurl = "https://127.0.0.1:1"\npeer_sae = "south"\n'
        'cert = "tls.pem"\nkey = "tls.key"\ncacert = "ca.pem"\n[[peer]]\nid = "spiffe://fed/site/a"\nmode = "prefer"\n'
        'keys = ["qkd:north-south"]\n'
    )
    federation = make_federation(tmp_path / "federation", sites=("bank-a",))
    for name in ("tls.pem", "tls.key", "ca.pem"):
        (tmp_path / name).symlink_to(federation.site("bank-a") / name)
    ring = load_keys(tmp_path / "keys.toml")
    assert ring is not None
    assert ring.keys_for(["spiffe://fed/site/a"], "file") == ()
    error = capsys.readouterr().err
    assert error.startswith(
        "pqfl: goes on without a key of qkd:north-south for spiffe://fed/site/a: the key manager at"
    )
    assert len(error.splitlines()) == 1
