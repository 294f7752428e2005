"""What a model must be to become a teacher, told before anything is made."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.errors import ConfigError
from distill.models import CLASSIFIER, WEIGHTS, validate_model
from tests.composing import composed

BASE = "teacher.max_length=128", "student.max_length=128"  # the encoder's positions


def check(folder, *overrides):
    config = composed(f"teacher.model={folder}", "teacher.sha256=null", *BASE, *overrides)
    validate_model(config, folder)


@pytest.fixture
def changed(tmp_path, encoder):
    """Return a copy of the encoder with other values in its configuration, or with a classifier."""

    def make(outputs=None, **values):
        folder = tmp_path / f"model-{outputs}"
        shutil.copytree(encoder, folder)
        config = json.loads((folder / "config.json").read_text()) | values
        if outputs is not None:
            weights = {f"bert.{name}": value for name, value in load_file(folder / WEIGHTS).items()}
            head = {CLASSIFIER: torch.rand(outputs, 32), "classifier.bias": torch.zeros(outputs)}
            save_file(weights | head, folder / WEIGHTS)
            config["id2label"] = {str(number): str(number) for number in range(outputs)}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def test_a_plain_encoder_and_one_with_one_output_are_taken(encoder, changed):
    check(encoder)
    check(changed(outputs=1))
    check(encoder, f"teacher.init={changed(outputs=None)}")
    check(changed(outputs=3).parent / "model-1", "teacher=cross_encoder", "teacher.max_length=128")


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_more_tokens_than_a_model_has_positions_are_refused(role, encoder):
    with pytest.raises(ConfigError, match=rf"{role}\.max_length=129: allowed is at most 128"):
        check(encoder, f"{role}.max_length=129")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hidden_act": "silu"}, "its hidden_act is silu; allowed are gelu"),
        (
            {"position_embedding_type": "relative_key"},
            "its position_embedding_type is relative_key; allowed is absolute",
        ),
        ({"model_type": "roberta"}, "only BERTs"),
    ],
)
def test_what_no_graph_is_built_of_is_refused(values, told, changed):
    with pytest.raises(ConfigError, match=told):
        check(changed(**values))


def test_another_number_of_outputs_is_refused_by_the_option(encoder, changed):
    three = changed(outputs=3)
    with pytest.raises(ConfigError, match=r"teacher\.model=.*: allowed is an encoder, or .* one output; it has 3"):
        check(three)
    with pytest.raises(ConfigError, match=r"teacher\.init=.*: allowed is an encoder, or .* one output; it has 3"):
        check(encoder, f"teacher.init={three}")
    with pytest.raises(ConfigError, match=r"teacher\.model=.*: allowed is a cross-encoder .*; it has none"):
        check(encoder, "teacher=cross_encoder", "teacher.max_length=128")


def test_damaged_weights_are_told_by_their_file(changed):
    folder = changed()
    (folder / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged: "):
        check(folder)
