"""`ranker rank`: what it reads and prints, on a ranker that keeps the order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import contextlib
from types import SimpleNamespace
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.runtime.ranker import Ranker
class InOrder:
    def rank(self, query, texts, top):
        return [(place, float(-place)) for place in range(len(texts))]
Ranker.load = lambda *arguments, **options: contextlib.nullcontext(InOrder())
Manifest.read = lambda *_: SimpleNamespace(doubt=None)
from rankdistill.export.commands.main import main
main()
"""


def rank(items: Path | str, stdout=subprocess.PIPE, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, "rank", ".", "--query", "q", str(items)]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, **options)


def test_a_mark_at_the_beginning_is_no_part_of_the_first_item(tmp_path):
    path = tmp_path / "items.txt"
    path.write_text("\ufeffdesk lamp\nchair \ufeff\n", encoding="utf-8")
    expected = "  0.0000  desk lamp\n -1.0000  chair \ufeff\n"
    assert rank(path).stdout == expected
    assert rank("-", input=path.read_text(encoding="utf-8")).stdout == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written_is_told_in_a_line(tmp_path, unbuffered):
    path = tmp_path / "items.txt"
    path.write_text("a\nb\n", encoding="utf-8")
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = rank(path, full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (2, "ranker: the output cannot be written: No space left on device\n")


def test_a_reader_that_goes_is_told_nothing(tmp_path):
    path = tmp_path / "items.txt"
    path.write_text("a\n" * 50_000, encoding="utf-8")
    command = [sys.executable, "-c", CODE, "rank", ".", "--query", "q", str(path)]
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 2
