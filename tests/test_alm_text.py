"""Text from strangers cannot steer a terminal, a Markdown page or a spreadsheet."""

import csv
import io

import pytest

from alm.common.text import (
    csv_text,
    decode_base64,
    markdown_cell,
    markdown_table,
    one_line,
    printable,
    text_table,
)


def test_a_terminal_shows_escapes_and_does_not_obey_them():
    evil = "a\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\r\n\u202eb"
    shown = printable(evil)
    assert shown == r"a\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\r" + "\n" + r"\u202eb"
    assert printable("Käse 犬 🐕\n\tok") == "Käse 犬 🐕\n\tok"
    name = b"\xff.wav".decode("utf-8", "surrogateescape")
    assert printable(name) == r"\udcff.wav" and printable(name).encode("utf-8")
    assert one_line("a\nb\t c ") == "a b c"


def test_markdown_has_no_raw_html_and_keeps_its_columns():
    assert markdown_cell("<script>|x\n&") == "&lt;script>\\|x &amp;"
    assert markdown_cell("![x](http://x) 84 [81, 87]") == r"![x\](http://x) 84 [81, 87]"
    lines = markdown_table(["a|b", "c"], [["1\n2", "<b>"]])
    assert lines == ["| a\\|b | c |", "| --- | --- |", "| 1 2 | &lt;b> |"]


def test_columns_are_aligned():
    assert text_table(["name", "n"], [["a", "10"], ["long", "1"]], right=[1]) == [
        "name   n",
        "a     10",
        "long   1",
    ]


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-x", "@a", "\t=1", "  =1"])
def test_no_cell_is_a_formula(cell):
    row = next(csv.reader(io.StringIO(csv_text([[cell, -1.5, "-2.5", "+3e-4", "plain"]]))))
    assert row == ["'" + cell, "-1.5", "-2.5", "+3e-4", "plain"]


@pytest.mark.parametrize("text", ["//4=", "__4=", "//4", "__4", " /\n/4=\t", b"//4="])
def test_base64_of_every_usual_form_is_read(text):
    assert decode_base64(text) == b"\xff\xfe"


@pytest.mark.parametrize("text", ["%%", "é", "a", "/=/4", "//4=x", "//4===="])
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(ValueError):
        decode_base64(text)
