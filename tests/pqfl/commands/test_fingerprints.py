"""`pqfl key show` and `pqfl key fingerprint` as two people on the telephone type them."""

import json
import shutil
from pathlib import Path

import pytest

from pqfl_transport.content.key_files import load_key_ring
from pqfl_transport.pki.files import write_secret
from pqfl_transport.pki.words import to_words
from tests.support.commands import good, pqfl, refused
from tests.support.pki import Federation, make_federation


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return make_federation(tmp_path_factory.mktemp("federation"), sites=("bank-a", "bank-b"))


@pytest.fixture(scope="module")
def site(federation: Federation) -> Path:
    return federation.site("bank-a")


def said(path: Path) -> tuple[str, str]:
    """The hexadecimal line and the words of a file with one key."""
    title, digits, *lines = good("key", "fingerprint", path).splitlines()
    assert title.startswith(f"{path}: ")
    assert len(lines) == 4
    return digits.strip(), " ".join(line.strip() for line in lines)


def test_both_halves_of_a_key_say_the_same(site: Path) -> None:
    """Whatever end reads out, and whichever file it has: hexadecimal and words are those of the other."""
    private, public = said(site / "receiving.key"), said(site / "receiving.pub")
    assert private == public
    assert said(site / "signing.key") == said(site / "signing.pem")
    assert private[1].split() == to_words(bytes.fromhex(private[0]))


def test_what_was_read_out_is_compared(site: Path) -> None:
    """Words in any case or digits: status 0 and a sentence; the first half says that it was the half; else status 1."""
    digits, words = said(site / "receiving.pub")
    compare = ("key", "fingerprint", site / "receiving.pub", "--compare")
    for heard in (words, words.upper(), digits, digits.upper()):
        assert "has this fingerprint\n" in good(*compare, heard)
    half = " ".join(words.split()[:16])
    assert "in the first 128 of 256 bits" in good(*compare, half)
    other = said(site / "signing.pem")[1]
    line = refused(*compare, other, status=1)
    assert "does NOT have this fingerprint" in line
    facts = pqfl(*compare, other, "--json")
    assert (facts.returncode, json.loads(facts.stdout)["matches"]) == (1, False)
    assert json.loads(good(*compare, half, "--json"))["compared_bits"] == 128


def test_a_mistake_of_the_ear_is_no_mismatch(site: Path) -> None:
    """A word that is not on the list, a word too few, too little: wrong usage, with the place."""
    words = said(site / "receiving.pub")[1].split()
    compare = ("key", "fingerprint", site / "receiving.pub", "--compare")
    assert "word 3, 'nonsense'" in refused(*compare, " ".join([*words[:2], "nonsense", *words[3:]]))
    assert "left out, added or swapped" in refused(*compare, " ".join(words[1:]))
    assert "at least the first 16" in refused(*compare, " ".join(words[:4]))


def test_of_several_keys_one_is_compared(federation: Federation, site: Path) -> None:
    """A roster or ca.pem has several: which is meant has to be said, because any of them would be too easy a match."""
    _, words = said(site / "receiving.pub")
    compare = ("key", "fingerprint", federation.roster, "--compare", words)
    assert "--of" in refused(*compare)
    assert "has this fingerprint" in good(*compare, "--of", "site/bank-a receiving")
    assert "does NOT" in refused(*compare, "--of", "site/bank-b receiving", status=1)
    assert "none of the keys" in refused(*compare, "--of", "site/bank-c")
    assert "root certificate" in good("key", "fingerprint", federation.ca_pem, "--of", "root")


def test_of_a_ring_the_key_in_use_is_compared(tmp_path: Path) -> None:
    """Former keys are printed, and never taken for the one that others seal to."""
    key = tmp_path / "k"
    good("key", "new", "--out", key)
    former = " ".join(to_words(load_key_ring(key).newest.fingerprint))
    good("key", "rotate", "--key", key)
    assert good("key", "fingerprint", key).count("private receiving key") == 2
    assert "does NOT" in refused("key", "fingerprint", key, "--compare", former, status=1)
    good("key", "fingerprint", key, "--compare", " ".join(to_words(load_key_ring(key).newest.fingerprint)))


def test_show_asks_for_no_passphrase(site: Path, tmp_path: Path) -> None:
    """What can be read is shown, and what needs the passphrase is said; fingerprint asks for it."""
    write_secret(tmp_path / "pass", b"correct horse battery staple")
    folder = Path(shutil.copytree(site, tmp_path / "site"))
    for name in ("signing.key", "receiving.key"):
        good("key", "encrypt", "--passphrase-file", tmp_path / "pass", folder / name)
    receiving, signing = json.loads(good("key", "show", "--json", folder / "receiving.key", folder / "signing.key"))
    assert (receiving["encrypted"], receiving["fingerprint"]) == (True, said(site / "receiving.pub")[0])
    assert (signing["encrypted"], signing["fingerprint"], signing["algorithm"]) == (True, None, None)
    assert "needs the passphrase" in good("key", "show", folder / "signing.key")
    assert "signing.key" in refused("key", "fingerprint", folder / "signing.key")
    digits = said(site / "signing.pem")[0]
    assert digits in good("key", "fingerprint", "--passphrase-file", tmp_path / "pass", folder / "signing.key")


def test_show_says_what_each_key_is(federation: Federation, site: Path) -> None:
    """Kind, algorithm with its category, owner, dates; several files in one go, as text and as JSON."""
    text = good("key", "show", site / "signing.pem", site / "receiving.pub", federation.roster)
    for part in ("signing certificate", federation.site_uri("bank-a"), "ML-DSA-65 (NIST category 3)", "until",
                 "public receiving key", "ML-KEM-768+X25519", "was not verified"):  # fmt: skip
        assert part in text
    rows = json.loads(good("key", "show", "--json", "--cacert", federation.ca_pem, federation.roster))
    assert {row["remark"] for row in rows} == {f"verified with {federation.ca_pem}"}
    assert len(rows) == 6
    assert "none.pem" in refused("key", "show", site / "none.pem")
