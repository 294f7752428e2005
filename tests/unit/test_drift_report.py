"""What the drift laboratory says of a system beside the frozen and the fully distilled student."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))

from drift_report import FROZEN, FULL, System, compared

WINDOW = slice(100, 300)


def laboratory(full_gain, own_gain):
    """Return systems whose values differ from the frozen one's by so much, but for a little noise."""
    rng = np.random.default_rng(0)
    frozen = rng.uniform(0.3, 0.6, size=300)
    noise = [rng.normal(0, 0.001, size=300) for _ in range(2)]
    return {
        FROZEN: System(frozen, [0.5], [], {}),
        FULL: System(frozen + full_gain + noise[0], [0.5], [200.0], {"after": [100]}),
        "head": System(frozen + own_gain + noise[1], [0.5], [4.0, 6.0], {"after": [100, 200]}),
    }


def test_shares_are_those_of_means_and_of_cpu_time():
    found = compared(laboratory(0.1, 0.08), WINDOW, 0)["head"]
    assert found["gain"]["mean"] == pytest.approx(0.08, abs=0.001)
    assert found["recovered"]["mean"] == pytest.approx(0.8, abs=0.01)
    low, high = found["recovered"]["interval"]
    assert low < found["recovered"]["mean"] < high
    assert found["cpu_share_of_an_update"] == 5 / 200
    assert found["cpu_share_of_all_until_here"] == 4 / 200


@pytest.mark.parametrize("full_gain", [-0.02, 0.0])
def test_where_the_full_distillation_regains_nothing_there_is_no_share_of_it(full_gain):
    found = compared(laboratory(full_gain, 0.02), WINDOW, 0)["head"]
    assert found["recovered"] is None
    assert found["above_full"]["mean"] == pytest.approx(0.02 - full_gain, abs=0.001)
