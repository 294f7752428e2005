"""`ranker gate` and `compare`: what was measured is printed, whatever becomes of the files."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from rankdistill.export.commands.main import app
from rankdistill.export.compare import comparison
from rankdistill.export.gate import bundle_gate
from rankdistill.export.gate.decision import Verdict
from tests.run_folders import write_run


@pytest.fixture
def measured(monkeypatch):
    """A gate that measures nothing; the list tells how often."""
    calls = []

    def gate(*arguments, **options):
        calls.append(arguments)
        return Verdict("pass", (), 0.95), {"bundle": "b"}

    monkeypatch.setattr(bundle_gate, "gate", gate)
    return calls


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("option", ["--json", "--junit", "--markdown"])
@pytest.mark.parametrize("target", ["missing/file", "folder", "file/file"])
def test_a_gate_looks_at_its_targets_before_it_measures(tmp_path, measured, option, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    run("gate", "b", "--budget", "c", option, tmp_path / target)
    assert not measured
    run("gate", "b", "--budget", "c", option, tmp_path / "new")
    assert len(measured) == 1


def test_a_verdict_is_printed_though_it_cannot_be_written(tmp_path, measured, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rankdistill.export.files.write_atomic", full)
    assert "pass" in run("gate", "b", "--budget", "c", "--json", tmp_path / "new").stdout.splitlines()


@pytest.mark.parametrize("option", ["--csv", "--html", "--json"])
def test_a_comparison_looks_at_its_targets_first_and_is_printed_before_it_is_written(tmp_path, monkeypatch, option):
    runs = [write_run(tmp_path / name, [0.5, 0.6]) for name in "ab"]
    compared = []
    compare = comparison.compare
    monkeypatch.setattr(comparison, "compare", lambda *a: compared.append(a) or compare(*a))
    run("compare", *runs, option, tmp_path / "missing/file")
    assert not compared

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(comparison, "write", full)
    assert "2 runs have a result" in run("compare", *runs, option, tmp_path / "new").stdout
