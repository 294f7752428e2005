"""A bundle that a test may change."""

from __future__ import annotations

import pytest

from tests.faults import bundles


@pytest.fixture
def hostile(bundle, tmp_path):
    return bundles.copy(bundle, tmp_path)
