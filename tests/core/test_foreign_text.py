"""Foreign text: whatever it holds, terminals and logs show it, and do not obey it."""

import json
import sys

import pytest

from nodekit import Problem, printable, printable_json, printable_lines, printable_pieces

HOSTILE = {
    "escape": "\x1b[2J",
    "carriage return": "fine\rforged",
    "newline": "one\ntwo",
    "backspace": "a\b\b",
    "control of C1": "\x9b31m",
    "next line": "\x85",
    "separators": "\u2028\u2029",
    "other direction": "\u202etxt.exe\u2066",
    "no width": "a\u200bb\ufeff",
    "tags": "\U000e0041",
    "half a pair": "\ud800",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_commands_a_terminal_is_escaped_and_stays_legible(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape", "surrogatepass") == text
    assert printable(shown) == shown
    assert str(Problem("", text)).replace("\n", "").isprintable()


def test_no_character_of_unicode_slips_through() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert printable(everything, keep="").isprintable()
    assert printable_lines(everything).replace("\t", "").replace("\n", "").isprintable()


@pytest.mark.parametrize("text", ["", "plain", "a\tb", "ä ß 漢字 👍", "C:\\new"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_pieces_are_cut_anywhere_and_bytes_that_are_not_utf8_are_shown() -> None:
    data = "ä漢👍\n\x1b[m\u2028".encode() + b"\xff\xc3"
    for size in (1, 2, 3, 100):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert "".join(printable_pieces(pieces)) == "ä漢👍\n\\x1b[m\\u2028\\xff\\xc3"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_json_stays_the_same_value(text: str) -> None:
    for ascii in (True, False):
        document = json.dumps({text: [text, 1.10]}, ensure_ascii=ascii).encode(errors="surrogatepass")
        if text == "\ud800" and not ascii:
            continue  # such bytes are no JSON
        shown = printable_json(document)
        assert shown.isprintable()
        assert json.loads(shown) == {text: [text, 1.10]}
    assert printable_json(b'{"a":\r1}\n') == '{"a": 1}\n'
