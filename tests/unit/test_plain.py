"""Names that anybody may have given, in XML, Markdown and HTML: what is written is well-formed and tells them apart."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.export.gate.decision import FAIL, PASS, Line, Verdict
from rankdistill.export.gate.verdict_files import as_junit, as_markdown
from rankdistill.export.report.plain_text import code, markdown, one_line, visible

# all of Unicode, and of it more often what means something somewhere
ODD = "\x00\x07\x1b\x7f\x85\u2028\ufeff\ufffe\uffff\udcff\ud800\t\r\n |`*_<>&'\"\\]["
ANY = st.text(st.characters() | st.sampled_from(ODD) | st.characters(categories=["Cs", "Cc"]), max_size=30)
NAMES = {
    "work/ctl\x1bb": "work/ctl\\x1bb",
    "a\x00b": "a\\x00b",
    "two\nlines\t": "two\\nlines\\t",
    "not\udcffutf-8": "not\\udcffutf-8",
    "]]>": "]]>",
    "a\ufffeb\u2028c": "a\\ufffeb\\u2028c",
    "实验　七 – naïve 👩‍💻": "实验　七 – naïve 👩‍💻",
    "<a href=\"x\">&amp; 'quoted'": "<a href=\"x\">&amp; 'quoted'",
}


def verdict(text: str) -> Verdict:
    lines = [
        Line("p95_ms", text, "p95_ms <= 15", 15.0, each, 3.0, 2.0, 4.0, note)
        for each, note in ((PASS, ""), (FAIL, text))
    ]
    return Verdict(FAIL, tuple(lines), 0.95)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_can_be_read_in_junit_whatever_is_in_it(name):
    root = ElementTree.fromstring(as_junit(verdict("m"), name).encode())
    assert root.find("testsuite").get("name") == NAMES[name]
    assert {case.get("classname") for case in root.iter("testcase")} == {f"{NAMES[name]}.p95_ms"}


@given(ANY)
def test_junit_is_well_formed_for_any_text(text):
    root = ElementTree.fromstring(as_junit(verdict(text), text).encode("utf-8"))
    assert root.find("testsuite").get("name") == visible(text)
    failure = root.find("testsuite/testcase/failure")
    assert failure.get("message") == failure.text
    assert visible(text) in failure.text


@given(ANY)
def test_a_table_of_markdown_has_a_line_a_bound_and_its_seven_cells_for_any_text(text):
    shown = as_markdown(verdict(text), text)
    shown.encode("utf-8")
    heading, empty, *table, end = shown.split("\n")
    assert heading.startswith("### ✗ ")
    assert (empty, end) == ("", "")
    assert len(table) == 4
    for line in table:
        bare = re.sub(r"\\.", "", line)  # an escaped character ends no cell
        assert bare.count("|") == 8


@given(ANY)
def test_what_is_visible_is_one_line_of_unicode_that_stays_as_it_is(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown
    assert visible(text, lines=True).count("\n") == text.count("\n")
    assert one_line(text).isprintable()
    assert re.sub(r"\\(.)", r"\1", markdown(text)) == re.sub(r"\\(.)", r"\1", shown.replace("\\", "\\\\"))


@given(ANY)
def test_code_of_markdown_is_closed_by_what_opens_it(text):
    fence, inside, closing = re.fullmatch(r"(`+) ?(.*?) ?(`+)", code(text)).groups()
    assert fence == closing
    assert fence not in inside
