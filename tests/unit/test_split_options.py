"""What is refused of a split student before anything is trained, and where its items begin."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rankdistill.errors import ConfigError
from rankdistill.models.student import item_position
from rankdistill.pipeline.validation import validate
from tests.composing import composed

REFUSED = {
    (
        "student=l2_h384",
        "student.split_layers=2",
    ): "student.split_layers=2: allowed is 0 to 1: the last of",
    ("student=l1_h384", "student.split_layers=1"): "student.split_layers=1: allowed is 0 to 0",
    ("student=l2_h384", "student.split_layers=-1"): "student.split_layers=-1: allowed is a number >= 0",
    (
        "student=l2_h384",
        "student.split_layers=1",
        "loss=hidden+kl",
    ): "student.split_layers=1: allowed is 0 with loss.terms.hidden",
    (
        "student=l2_h384",
        "student.split_layers=1",
        "quantize=int8_fused",
    ): "student.split_layers=1: allowed is 0 with quantize=int8_fused",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_be_split_is_refused(overrides):
    with pytest.raises(ConfigError) as caught:
        validate(composed(*overrides))
    assert REFUSED[overrides] in str(caught.value)


@pytest.mark.parametrize(
    "overrides", [["student=l3_h384", "student.split_layers=2"], ["student=l2_h384", "student.split_layers=1"]]
)
def test_what_can_be_is_not(overrides):
    validate(composed(*overrides))


@pytest.mark.parametrize(("lengths", "positions", "expected"), [([3, 4, 30], 512, 6), ([60, 60], 100, 20)])
def test_items_begin_where_most_of_the_teachers_do_as_far_as_there_are_positions(lengths, positions, expected):
    queries = SimpleNamespace(lengths_of=lambda rows: np.array(lengths)[rows])
    pairs = SimpleNamespace(
        query=np.arange(len(lengths)), table=SimpleNamespace(queries=queries), encoder=SimpleNamespace(max_length=80)
    )
    assert item_position(pairs, SimpleNamespace(max_position_embeddings=positions)) == expected
