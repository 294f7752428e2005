"""What golden pairs tell of a tokenizer, and what is not theirs to tell."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rankdistill.export.bundle import golden_replay


class PanicException(BaseException):  # the name that pyo3 gives
    pass


class Ended(BaseException):
    pass


def findings(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(golden_replay, "_golden_rows", lambda _: [{}])
    monkeypatch.setattr(golden_replay.PairEncoder, "load", fail)
    return [*golden_replay.check_golden(SimpleNamespace(folder=Path("bundle"), max_length=16), [])]


@pytest.mark.parametrize("error", [Exception("broken"), PanicException("broken")], ids=["exception", "panic"])
def test_what_the_tokenizer_raises_is_a_finding(monkeypatch, error):
    (found,) = findings(monkeypatch, error)
    assert (found.ok, found.what, "broken" in found.detail) == (False, "tokenizer.json", True)


@pytest.mark.parametrize("error", [Ended(), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_what_ends_the_program_passes(monkeypatch, error):
    with pytest.raises(type(error)):
        findings(monkeypatch, error)
