"""Configuration files: every key is asked for or refused, by its name and its file's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pqfl_transport.errors import ConfigurationError
from pqfl_transport.sections import Section, read_toml


def section(tmp_path: Path, text: str) -> Section:
    path = tmp_path / "some.toml"
    path.write_text(f"[part]\n{text}\n")
    return Section(path, read_toml(path), "part")


def test_what_a_section_gives(tmp_path: Path) -> None:
    """Each kind of value, and its default where it is not there."""
    part = section(tmp_path, 'name = "x"\nhow = "some"\nmany = ["a", "b"]\nyes = true\nfile = "f"\ncount = 3')
    assert part.text("name") == "x"
    assert part.optional_text("nothing") is None
    assert part.choice("how", ("some", "none")) == "some"
    assert part.choice("else", ("some", "none"), "none") == "none"
    assert part.texts("many", among=("a", "b", "c")) == ("a", "b")
    assert part.texts("others", ("c",)) == ("c",)
    assert (part.flag("yes"), part.flag("no")) == (True, False)
    assert part.path("file") == tmp_path / "f"
    assert part.path("elsewhere", tmp_path) == tmp_path
    assert (part.optional_path("file"), part.optional_path("elsewhere")) == (tmp_path / "f", None)
    assert part.number("count", whole=True) == 3
    assert (part.optional_number("count", whole=True), part.optional_number("nothing")) == (3, None)
    part.finish()


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        ("", lambda part: part.text("key")),
        ('key = ""', lambda part: part.text("key")),
        ("key = 1", lambda part: part.text("key")),
        ('key = "third"', lambda part: part.choice("key", ("first", "second"))),
        ('key = ["a", "a"]', lambda part: part.texts("key")),
        ("key = []", lambda part: part.texts("key")),
        ('key = "a"', lambda part: part.texts("key")),
        ('key = ["d"]', lambda part: part.texts("key", among=("a",))),
        ("key = 1", lambda part: part.flag("key")),
        ("key = true", lambda part: part.number("key")),
        ("key = 1.5", lambda part: part.number("key", whole=True)),
        ("key = inf", lambda part: part.number("key")),
        ("key = 1", lambda part: part.optional_number("key", least=2)),
        ('key = "1"', lambda part: part.optional_number("key")),
        ("key = 1", Section.finish),
    ],
)  # fmt: skip
def test_what_a_section_refuses(tmp_path: Path, text: str, ask: Callable[[Section], Any]) -> None:
    """The message names file, section and key."""
    with pytest.raises(ConfigurationError, match=r"some\.toml: part\.key "):
        ask(section(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "expected"), [("", ()), ('key = "a"', ("a",)), ('key = ["a"]', ("a",)), ('key = ["a", "b"]', ("a", "b"))]
)
def test_one_or_several(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    """A list of one is the same as the one."""
    found = section(tmp_path, text)
    assert found.text_or_texts("key") == expected
    found.finish()


@pytest.mark.parametrize(
    "text", ["key = 1", 'key = ""', "key = []", 'key = ["a", "a"]', 'key = ["a", 1]', 'key = [""]']
)
def test_neither_one_nor_several(tmp_path: Path, text: str) -> None:
    """Each is said with the file and the key."""
    with pytest.raises(ConfigurationError, match=r"part\.key"):
        section(tmp_path, text).text_or_texts("key")


def test_sections_by_name_and_in_a_row(tmp_path: Path) -> None:
    """``[part.NAME]`` and ``[[part]]`` are both lists of sections, which errors can name."""
    path = tmp_path / "some.toml"
    path.write_text("[part.one]\nx = 1\n[part.two]\n[[row]]\n[[row]]\n")
    document = read_toml(path)
    assert [each.name for each in Section.tables(path, document, "part")] == ["part.one", "part.two"]
    assert [each.name for each in Section.tables(path, document, "row")] == ["row[1]", "row[2]"]
    assert Section.tables(path, document, "nothing") == []
    with pytest.raises(ConfigurationError, match=r"some\.toml"):
        Section.tables(path, {"part": 1}, "part")
    with pytest.raises(ConfigurationError, match=r"\[part\.one\]"):
        Section.tables(path, {"part": {"one": 1}}, "part")


def test_files_that_are_none(tmp_path: Path) -> None:
    """Missing, not TOML, not text: the file's name is in the message."""
    (tmp_path / "bad.toml").write_text("= 1")
    (tmp_path / "latin.toml").write_bytes(b"x = '\xff'")
    for name in ("nowhere.toml", "bad.toml", "latin.toml"):
        with pytest.raises(ConfigurationError, match=name):
            read_toml(tmp_path / name)
