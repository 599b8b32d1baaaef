"""A file that is no TOML: the problem says where, and what to write."""

import tomllib
from pathlib import Path

import pytest

from nodekit import CompositionError, load_node
from nodekit.config.toml_faults import explained

PLUGINS = "there may be several of these: write [[plugins]]"
TABLE = "write [table], or [[table]] for a list of tables, in a line of its own"
STATEMENT = "write key = value, or [table]"
TEXT = 'a text needs quotes, as in "…"'
OPEN = 'in the same line, or write """…""" for a text of several lines'
LIST = "write a comma between the values of a list, and ] behind the last one"
INLINE = "an inline table {…} stands in one line, with a comma between its keys and none behind the last one"
STRAIGHT = 'quotes are straight: write "…"'
UNSEEN = "remove this character, which nobody sees"
OWN_LINE = "write each key = value in a line of its own"

CURES: dict[str, tuple[str, str]] = {
    "[plugins]]": ("line 1, column 10", PLUGINS),
    "[[plugins]": ("line 1, column", PLUGINS),
    "[plugins": ("line 1, column 9", PLUGINS),
    "[[plugins": ("line 1, column 10", PLUGINS),
    "plugins]": ("line 1, column 8", PLUGINS),
    "[[plugins] ] # one": ("line 1, column 10", PLUGINS),
    "[[runners.containers]": ("line 1, column", "write [[runners.containers]]"),
    "[node]]": ("line 1, column 7", "write [node] in a line of its own"),
    "[store": ("line 1, column 7", "write [store] in a line of its own"),
    "[stor": ("line 1, column 6", "write [stor], or [[stor]] for a list of tables, in a line of its own"),
    "[]": ("line 1, column 2", TABLE),
    "[a b]": ("line 1, column 4", TABLE),
    'use = "asgi': ("line 1, column 12", f"the text has no end: close it {OPEN}"),
    "use = 'asgi": ("line 1, column", f"{OPEN}"),
    'a = 1\nb = """\nc = 1\n': ("it begins at line 2, column 5", f"close the text {OPEN}"),
    "a = 1\nb = '''\nc = 1\n": ("it begins at line 2, column 5", f"close the text {OPEN}"),
    'use = asgi"': ("line 1, column 7", TEXT),
    "use = asgi": ("line 1, column 7", TEXT),
    "a = 127.0.0.1:4000": ("line 1, column 10", TEXT),
    "a = 10MB": ("line 1, column 7", "a number has no unit"),
    "a = .5": ("line 1, column 5", "write a digit before the dot"),
    "a = True": ("line 1, column 5", "write true or false, in lower case"),
    "a = yes": ("line 1, column 5", "write true or false, in lower case"),
    "a = null": ("line 1, column 5", "leave the key out"),
    "a =": ("line 1, column 4", "the value is missing: write it behind the =, in the same line"),
    'a =\n"x"': ("line 1, column 4", "the value is missing"),
    "a == 1": ("line 1, column 4", "write one ="),
    'use "asgi"': ("line 1, column 5", STATEMENT),
    "use": ("line 1, column 4", STATEMENT),
    "$a = 1": ("line 1, column 1", STATEMENT),
    'use: "asgi"': ("line 1, column 4", "write = in place of :"),
    "größe = 1": ("line 1, column 3", 'a key with letters other than A to Z stands in quotes: "…" = value'),
    "a = 1 b = 2": ("line 1, column 7", OWN_LINE),
    'a = "x" "y"': ("line 1, column 9", OWN_LINE),
    'a = "x",': ("line 1, column 8", "remove it, and write each"),
    "a = [1]]": ("line 1, column 8", "remove it: it closes nothing"),
    'a = [\n  "x"\n  "y"\n]': ("line 3, column 3", LIST),
    'a = 1\nb = ["x",': ("it begins at line 2, column 5", LIST),
    'a = ["]", [1]\n': ("it begins at line 1, column 5", LIST),
    "a = {b = 1\n}": ("line 1, column 11", INLINE),
    "a = {b = 1,}": ("line 1, column", INLINE),
    "use = “asgi”": ("line 1, column 7", STRAIGHT),
    "“use” = 1": ("line 1, column 1", STRAIGHT),
    'use = "asgi”': ("line 1, column 13", STRAIGHT),
    "a = ‘x’": ("line 1, column 5", STRAIGHT),
    "a = \u00a01": ("line 1, column 5", UNSEEN),
    "\u200ba = 1": ("line 1, column 1", UNSEEN),
    "a = 1 // one": ("line 1, column 7", "a comment begins with #"),
    "; one": ("line 1, column 1", "a comment begins with #"),
    '{\n  "a": 1\n}': ("line 1, column 1", "a node file is TOML, not JSON"),
    "<<<<<<< HEAD": ("line 1, column 1", "a merge has left its marks"),
    "a = 1\rb = 2": ("line 1, column 6", "end lines with LF or CRLF"),
    'a = "\x01"': ("line 1, column 6", r"write it as \u and four hexadecimal digits"),
    'a = "C:\\x"': ("line 1, column", "put a text with backslashes in single quotes"),
    "a = 1\na = 2": ("line 2, column", "this key is there already; remove one of the two"),
    "a = {b = 1, b = 2}": ("line 1, column", "this key is there already"),
    "[a]\r\n[a]\r\n": ("line 2, column 3", "the table [a] is there twice"),
}


@pytest.mark.parametrize("text", CURES)
def test_a_fault_has_its_place_and_a_cure(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(f"{text}\n".encode())
    with pytest.raises(CompositionError, match="is not TOML: ") as raised:
        load_node(file)
    place, cure = CURES[text]
    assert place in str(raised.value)
    assert cure in str(raised.value)


@pytest.mark.parametrize("text", ['\tuse\t=\t"a\tb"\t# c\n', 'a = "“x”"\n', "a = 1\r\nb = 2\r\n"])
def test_what_is_toml_has_none(text: str) -> None:
    assert tomllib.loads(text)


@pytest.mark.parametrize("text", ["something new (at line 7, column 9)", "something new", "Expected '=' (at line 9"])
def test_a_message_that_is_not_known_is_told_as_it_is(text: str) -> None:
    assert explained(text, "a = 1").startswith(text.partition(" (")[0])
