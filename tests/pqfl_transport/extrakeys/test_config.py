"""The file of key sources: read into values, refused with file, key and what was expected."""

from pathlib import Path

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.extrakeys.config import load_keys_config
from pqfl_transport.extrakeys.rules import Mode, Rule

GOOD = """
[used]
file = "used.db"
[psk.spring]
file = "spring.psk"
[qkd.north-south]
url = "https://127.0.0.1:8020"
peer_sae = "south"
cert = "km/tls.pem"
key = "km/tls.key"
cacert = "km/ca.pem"
verify_uri = "spiffe://qkd/gateway/north"
[[peer]]
id = "spiffe://fed/aggregator/main"
envelopes = ["update", "file"]
mode = "require"
keys = ["qkd:north-south", "psk:spring"]
[[peer]]
id = "*"
envelopes = ["model"]
mode = "prefer"
keys = ["psk:spring"]
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path) -> None:
    """Paths are relative to its folder; what is left out has its default."""
    config = load_keys_config(write(tmp_path, GOOD))
    assert (config.used, config.retain_days, dict(config.psk)) == (
        tmp_path / "used.db", 400, {"spring": tmp_path / "spring.psk"},
    )  # fmt: skip
    link = config.links["north-south"]
    assert (link.name, link.cert, link.key_bits, link.classical) == (
        "north-south", tmp_path / "km" / "tls.pem", 256, False,
    )  # fmt: skip
    both = Rule(Mode.REQUIRE, ("qkd:north-south", "psk:spring"))
    assert config.rules == {
        ("spiffe://fed/aggregator/main", "update"): both,
        ("spiffe://fed/aggregator/main", "file"): both,
        ("*", "model"): Rule(Mode.PREFER, ("psk:spring",)),
    }


def test_off_is_a_rule_without_keys(tmp_path: Path) -> None:
    """It takes a peer out of what holds for anybody."""
    config = load_keys_config(write(tmp_path, '[used]\nfile = "u"\n[[peer]]\nid = "spiffe://f/site/a"\nmode = "off"'))
    assert config.rules["spiffe://f/site/a", "model"] == Rule()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[used]", "[use]", r"\[use\]"),
        ('file = "used.db"', "", r"used\.file is missing"),
        ("[psk.spring]", "[psk.Spring]", r"\[psk\.Spring\]"),
        ("[qkd.north-south]", "[qkd.a_b]", r"\[qkd\.a_b\]"),
        ('url = "https://127.0.0.1:8020"', "", r"qkd\.north-south\.url is missing"),
        ('peer_sae = "south"', "sae = 1", r"peer_sae is missing"),
        ('peer_sae = "south"', 'peer_sae = "south"\nkey_bits = 128', r"key_bits"),
        ('peer_sae = "south"', 'peer_sae = "south"\nkey_bits = 257', r"multiple of 8"),
        ('peer_sae = "south"', 'peer_sae = "south"\nclassical = true', r"verify_uri is for post-quantum"),
        ('peer_sae = "south"', 'peer_sae = "south"\nunsafe_classical = true', r"unsafe_classical means nothing"),
        ('peer_sae = "south"', 'peer_sae = "south"\ntimeout = 3', r"timeout is not a key"),
        ('peer_sae = "south"', 'peer_sae = "south"\nlevel = "low"', r"level is 'low'"),
        ('mode = "require"', 'mode = "demand"', r"peer\[1\]\.mode is 'demand'; expected one of require, prefer, off"),
        ('mode = "require"', "", r"peer\[1\]\.mode"),
        ('mode = "require"', 'mode = "off"', r"peer\[1\]\.keys is not a key"),
        ('keys = ["qkd:north-south", "psk:spring"]', "", r"peer\[1\]\.keys"),
        ('"qkd:north-south", "psk', '"qkd:north-west", "psk', r"expected a list of psk:spring, qkd:north-south"),
        ('id = "*"', 'id = "spiffe://fed/aggregator/main"\n', None),
        ('["model"]', '["weights"]', r"peer\[2\]\.envelopes"),
        ('id = "*"', 'id = "anybody"', r"peer\[2\]\.id is no peer"),
        ('keys = ["psk:spring"]', 'keys = ["qkd:north-south"]', r"for anybody; a link has two ends"),
        ('id = "*"\nenvelopes = ["model"]', 'id = "spiffe://fed/aggregator/main"', r"already"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, old: str, new: str, named: str | None) -> None:
    """Each with the file and the key; a second rule for other envelopes of a peer is none of them."""
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    if named is None:
        load_keys_config(path)
        return
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_keys_config(path)
    assert str(path) in str(caught.value)
