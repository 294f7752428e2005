"""A verdict for people and machines: a table, Markdown for a CI summary, JUnit XML for its test view, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from rankdistill.export.gate.decision import FAIL, INCONCLUSIVE, PASS, SYMBOLS, UNUSABLE, Line, Verdict
from rankdistill.export.report.plain_text import markdown, visible
from rankdistill.export.report.tradeoff_table import NOTHING, significant

WORDS = {
    PASS: "passes the budget", FAIL: "fails the budget", INCONCLUSIVE: "is undecided: inconclusive",
    UNUSABLE: "cannot be judged: unusable input",
}  # fmt: skip


def as_json(verdict: Verdict, about: Mapping[str, Any]) -> str:
    """Return gate.json's text.

    Args:
        verdict: what was found.
        about: what else the file says: bundle, budget, host, ...
    """
    return json.dumps({**verdict.as_dict(), **about}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(verdict: Verdict, title: str) -> str:
    """Return a summary with a table, for a CI job's page."""
    lines = [
        f"### {SYMBOLS[verdict.verdict]} {markdown(title)} {WORDS[verdict.verdict]}",
        "",
        f"| | metric | model | measured | {100 * verdict.confidence:g}% interval | allowed | |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in verdict.lines:
        cells = (
            SYMBOLS[line.verdict],
            f"`{line.metric}`",
            markdown(line.model),
            measured(line),
            interval(line),
            markdown(allowed(line)),
            markdown(line.note),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def as_junit(verdict: Verdict, title: str) -> str:
    """Return JUnit XML as GitHub's and GitLab's viewers read it: a test case a bound.

    A failed bound is a failure, an inconclusive or unusable one an error: neither may look like a pass.
    """
    counts = {kind: sum(line.verdict == kind for line in verdict.lines) for kind in SYMBOLS}
    errors = str(counts[INCONCLUSIVE] + counts[UNUSABLE])
    numbers = {"tests": str(len(verdict.lines)), "failures": str(counts[FAIL]), "errors": errors, "skipped": "0"}
    numbers["time"] = "0"  # a bound has no time of its own, and some viewers write NaN without one
    root = ElementTree.Element("testsuites", {"name": "rankdistill gate", **numbers})
    suite = ElementTree.SubElement(root, "testsuite", {"name": visible(title), **numbers})
    for line in verdict.lines:
        names = {"name": visible(line.bound), "classname": visible(f"{title}.{line.metric}")}
        case = ElementTree.SubElement(suite, "testcase", names, time="0")
        if line.verdict != PASS:
            kind = "failure" if line.verdict == FAIL else "error"
            told = visible(sentence(line))
            element = ElementTree.SubElement(case, kind, message=told, type=line.verdict)
            element.text = told
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def sentence(line: Line) -> str:
    """Return a line of the verdict in words: metric, model, measured, interval, allowed."""
    told, _, note = finding(line).partition(" (")
    return f"{told}: {line.verdict}" + (f" ({note}" if note else "")


def finding(line: Line) -> str:
    """Return what was measured and what is allowed, in words."""
    found = f"{measured(line)} {interval(line)}".strip()
    told = f"{line.metric} of {line.model}: {found}, allowed {allowed(line)}"
    return f"{told} ({line.note})" if line.note else told


def measured(line: Line) -> str:
    """Return the measured value as it is written, a dash without one."""
    return NOTHING if line.measured is None else significant(line.measured)


def interval(line: Line) -> str:
    """Return the interval as it is written; nothing for a value without uncertainty."""
    if line.measured is None or line.low == line.high == line.measured:
        return ""
    low, high = ("∞" if end is None else significant(end) for end in (line.low, line.high))
    return f"[{'−' if low == '∞' else ''}{low}, {high}]"


def allowed(line: Line) -> str:
    """Return the bound without its metric, as in ">= 0.95"."""
    return line.bound.split(" ", 1)[1]
