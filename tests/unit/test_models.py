"""What a model must be to become a teacher, told before anything is made."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rankdistill.errors import ConfigError
from rankdistill.models.model_files import CLASSIFIER, WEIGHTS, validate_model
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


@pytest.mark.parametrize(
    "name",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "hidden_act",
        "model_type",
    ],
)
def test_a_configuration_without_a_field_is_refused_by_the_field(name, changed):
    folder = changed()
    config = json.loads((folder / "config.json").read_text())
    del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"^teacher\.model: .*config\.json has no {name}; "):
        check(folder)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hidden_size": "32"}, r'its hidden_size is "32"; allowed is a whole number >= 1'),
        ({"num_hidden_layers": 0}, "its num_hidden_layers is 0; allowed is a whole number >= 1"),
        ({"vocab_size": True}, "its vocab_size is true; allowed is a whole number >= 1"),
        ({"max_position_embeddings": None}, "its max_position_embeddings is null; allowed is a whole number >= 1"),
        ({"num_attention_heads": 5}, "its hidden_size is 32; allowed is a multiple of num_attention_heads, 5"),
        ({"type_vocab_size": 1}, "its type_vocab_size is 1; allowed is 2 or more"),
        ({"pad_token_id": 5000}, "its pad_token_id is 5000; allowed is a whole number below vocab_size"),
        ({"pad_token_id": 3}, r"pad_token_id is 3; tokenizer\.json has \[PAD\] at 0"),
        ({"hidden_dropout_prob": "0.1"}, r'its hidden_dropout_prob is "0\.1"; allowed is a number from 0 to below 1'),
        ({"layer_norm_eps": "1e-12"}, r'its layer_norm_eps is "1e-12"; allowed is a number above 0'),
        ({"is_decoder": True}, "its is_decoder is true; allowed is false"),
        ({"return_dict": False}, "its return_dict is false; allowed is true"),
        ({"id2label": ["good"]}, "its id2label is .*; allowed is an object"),
        ({"_attn_implementation_internal": "evil/kernels"}, r"config\.json has '_attn_implementation_internal', which"),
        ({"auto_map": {"AutoModel": "evil--x.Model"}}, r"config\.json has 'auto_map', which is not known"),
        ({"quantization_config": {"bits": 8}}, r"its config\.json has quantization_config; allowed is a model without"),
        ({"intermediate_size": 65}, r"intermediate\.dense\.weight is \[64, 32\], and config\.json asks for \[65, 32\]"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_the_field(values, told, changed):
    with pytest.raises(ConfigError, match=rf"^teacher\.model.*{told}"):
        check(changed(**values))


@pytest.mark.parametrize("text", ["{", "[]", "null", "\ufeff{}", ""])
def test_a_configuration_that_is_no_json_is_told_by_its_file(text, changed):
    folder = changed()
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^teacher\.model: .*config\.json (cannot be read as JSON|holds )"):
        check(folder)


def test_a_run_to_begin_with_that_cannot_be_read_is_told(encoder, tmp_path):
    for text in ("{", "[]", "{}", '{"stages": 1}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ConfigError, match=r"^teacher\.init=.*(run\.json (cannot|holds)|lacks config\.json)"):
            check(encoder, f"teacher.init={tmp_path}")


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
