"""Every weight of a model is its checkpoint's: what would begin at random or be left out is told by name."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from rankdistill.errors import ConfigError
from rankdistill.export.errors import ModelError
from rankdistill.export.torch_models.checkpoint import load_ranker, save_ranker
from rankdistill.models.model_files import WEIGHTS, locate_model, validate_model
from tests.composing import composed

QUERY = "encoder.layer.1.attention.self.query.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
BASE = "teacher.sha256=null", "teacher.max_length=128", "student.max_length=128"


def renamed(change):
    return lambda weights: {change(name): value for name, value in weights.items()}


def without(*parts):
    return lambda weights: {name: value for name, value in weights.items() if not any(part in name for part in parts)}


def with_values(name, change):
    return lambda weights: weights | {name: change(weights[name].copy())}


def filled(value):
    def fill(weight):
        weight.reshape(-1)[7] = value
        return weight

    return fill


def ranker(weights):
    """An encoder's weights as those of a cross-encoder with one output."""
    head = np.linspace(-1, 1, 32, dtype=np.float32)[None]
    bert = {f"bert.{name}": value for name, value in weights.items()}
    return bert | {"classifier.weight": head, "classifier.bias": np.zeros(1, np.float32)}


def old_names(weights):
    pairs = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    return {name.replace(*pairs[0]).replace(*pairs[1]): value for name, value in weights.items()}


@pytest.fixture
def changed(tmp_path, encoder):
    """Return a copy of the encoder whose weights and configuration were changed."""

    def make(change=dict, **values):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(encoder, folder)
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def check(folder, *overrides):
    validate_model(composed(f"teacher.model={folder}", *BASE, *overrides), folder)


TAKEN = {
    "as it is": dict,
    "a prefix": renamed("bert.{}".format),
    "a cross-encoder": ranker,
    "names of TensorFlow": old_names,
    "positions": lambda weights: weights | {"embeddings.position_ids": np.arange(128)[None]},
    "a head of pretraining": lambda weights: (
        ranker(weights) | {"cls.predictions.bias": np.ones(4), "bert.embeddings.position_ids": np.arange(128)[None]}
    ),
    "half precision": lambda weights: {name: value.astype(np.float16) for name, value in weights.items()},
    "texts not told apart": with_values("embeddings.token_type_embeddings.weight", np.zeros_like),
}


@pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN)
def test_whole_encoders_are_taken(change, changed):
    check(changed(change))


REFUSED = {
    "module": (renamed("module.{}".format), r'missing: .*unexpected: module\.embeddings.*save it without "module\."'),
    "auto_model": (renamed("auto_model.{}".format), r'unexpected: auto_model\..*save it without "auto_model\."'),
    "two wrappers": (renamed("module.model.bert.{}".format), r'save it without "module\.model\."'),
    "a layer": (without("layer.1."), r"missing: encoder\.layer\.1\.attention\.self\.query\.weight, .* and 13 more"),
    "a name": (
        renamed(lambda name: name.replace("self.query", "self.q")),
        r"missing: encoder\.layer\.0\.attention\.self\.query\.weight.*unexpected: .*self\.q\.",
    ),
    "one more layer": (
        lambda weights: weights | {QUERY.replace("1", "2"): weights[QUERY]},
        r"unexpected: encoder\.layer\.2\.attention\.self\.query\.weight",
    ),
    "half a pooler": (without("pooler.dense.bias"), r"missing: pooler\.dense\.bias"),
    "half a head": (lambda weights: without("classifier.bias")(ranker(weights)), r"missing: classifier\.bias"),
    "a head without pooler": (lambda weights: without("pooler")(ranker(weights)), r"missing: bert\.pooler"),
    "a head beside bare names": (
        lambda weights: weights | {"classifier.weight": np.ones((1, 32), np.float32)},
        r"unexpected: classifier\.weight",
    ),
    "a shape": (
        with_values("embeddings.position_embeddings.weight", lambda weight: weight[:64]),
        r"position_embeddings\.weight is \[64, 32\], and config\.json asks for \[128, 32\]",
    ),
    "not a number": (with_values(QUERY, filled(np.nan)), f"{QUERY} holds values that are not finite"),
    "infinite": (with_values(QUERY, filled(-np.inf)), f"{QUERY} holds values that are not finite"),
    "zeros": (with_values(QUERY, np.zeros_like), f"{QUERY} is 0 throughout"),
    "eight bits": (
        with_values(QUERY, lambda weight: (weight * 9).astype(np.int8)),
        f"{QUERY} holds I8; allowed are F64, F32, F16, BF16",
    ),
}


@pytest.mark.parametrize(("change", "told"), REFUSED.values(), ids=REFUSED)
def test_weights_that_would_not_be_loaded_are_named(change, told, changed):
    folder = changed(change)
    with pytest.raises(ConfigError, match=rf"^teacher\.model={folder}: .*{told}"):
        check(folder)


def test_another_table_than_the_configuration_has_is_told(changed):
    with pytest.raises(
        ConfigError, match=r"word_embeddings\.weight is \[\d+, 32\], and config\.json asks for \[999, 32"
    ):
        check(changed(vocab_size=999))


def test_a_checkpoint_to_begin_with_is_held_to_the_same(encoder, changed):
    folder = changed(without("layer.1."))
    with pytest.raises(ConfigError, match=rf"^teacher\.init={folder}: .*missing: encoder\.layer\.1"):
        check(encoder, f"teacher.init={folder}")


def test_a_pooler_that_begins_at_random_is_told(changed, caplog):
    folder = changed(without("pooler"))
    with caplog.at_level(logging.WARNING):
        check(folder)
    assert f"teacher.model={folder}: {folder / WEIGHTS} has no pooler; it begins at random" in caplog.text


AS_IT_IS = "teacher=cross_encoder", "teacher.max_length=128"
ONE = {"id2label": {"0": "LABEL_0"}}


def test_a_cross_encoder_used_as_it_is_has_all(changed):
    check(changed(ranker, **ONE), *AS_IT_IS)
    for part in ("pooler", "layer.1."):
        folder = changed(lambda weights, part=part: without(part)(ranker(weights)), **ONE)
        with pytest.raises(ConfigError, match=r"teacher\.model=.*: .*missing: bert\."):
            check(folder, *AS_IT_IS)


def test_a_cross_encoder_whose_configuration_tells_of_more_outputs_is_refused(changed):
    with pytest.raises(ConfigError, match=r'config\.json tells of 2 outputs .*write "id2label"'):
        check(changed(ranker), *AS_IT_IS)


def test_bfloat16_is_read(changed):
    import torch
    from safetensors.torch import save_file as save

    def write(bad):
        folder = changed()
        weights = {name: torch.from_numpy(value).bfloat16() for name, value in load_file(folder / WEIGHTS).items()}
        weights[QUERY][0, 0] = float("nan") if bad else 1.0
        save(weights, folder / WEIGHTS)
        return folder

    check(write(bad=False))
    with pytest.raises(ConfigError, match="not finite"):
        check(write(bad=True))


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.txt"])
def test_pointers_of_git_lfs_are_told(name, changed):
    folder = changed()
    (folder / name).write_text(POINTER)
    with pytest.raises(ConfigError, match=rf"^teacher\.model=.*/{name} is a pointer of Git LFS.*git lfs pull"):
        locate_model(str(folder), "0" * 64)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.safetensors.index.json", "lacks model.safetensors; its weights lie in several files: save them in one"),
        ("adapter_model.safetensors", "lacks model.safetensors; it is an adapter alone: merge it"),
        ("pytorch_model.bin", "lacks model.safetensors; its weights are pickled, which can run code"),
    ],
)
def test_what_a_folder_has_in_place_of_weights_is_told(name, told, changed):
    folder = changed()
    (folder / WEIGHTS).rename(folder / name)
    with pytest.raises(ConfigError, match=told):
        locate_model(str(folder), None)


def test_pickled_weights_are_converted_by_the_command_that_is_told(changed):
    folder = changed()
    before = load_file(folder / WEIGHTS)
    torch.save({name: torch.from_numpy(value) for name, value in before.items()}, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match="pickled") as refused:
        locate_model(str(folder), None)
    command = str(refused.value).split("run in that folder: ")[1].removeprefix("python ")
    subprocess.run([sys.executable, *shlex.split(command)], cwd=folder, check=True)
    after = load_file(locate_model(str(folder), None) / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_nothing_is_printed_where_a_model_is_read_and_written(changed, tmp_path, capfd):
    model = load_ranker(str(changed(ranker, num_labels=1)), cls_only=True)
    save_ranker(model, str(tmp_path / "saved"))
    load_ranker(str(tmp_path / "saved"), cls_only=False)
    assert capfd.readouterr() == ("", "")


def test_a_revision_is_asked_of_the_hub_and_of_nothing_else(changed, monkeypatch):
    folder, asked = changed(), []

    def download(model, *, revision, allow_patterns):
        asked.append((model, revision))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert locate_model("some/model", None, "v2") == locate_model("some/model", None) == folder
    assert asked == [("some/model", "v2"), ("some/model", None)]
    with pytest.raises(ConfigError, match=r"^teacher\.revision=v2: allowed is null with a model that is here"):
        locate_model(str(folder), None, "v2")


def test_an_adapter_beside_a_model_is_refused(changed):
    folder = changed()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "another"}')
    with pytest.raises(ConfigError, match=r"adapter_config\.json: transformers would load another model's weights"):
        check(folder)


@pytest.mark.parametrize("cls_only", [True, False])
def test_a_ranker_is_loaded_whole_or_not_at_all(cls_only, changed):
    load_ranker(str(changed(ranker, num_labels=1)), cls_only=cls_only)
    load_ranker(str(changed(lambda weights: old_names(ranker(weights)), num_labels=1)), cls_only=cls_only)
    for change, told in (
        (without("layer.1."), r"missing: bert\.encoder\.layer\.1"),
        (renamed("module.{}".format), r"missing: .*unexpected: module\."),
        (with_values(f"bert.{QUERY}", filled(np.nan)), "not finite"),
        (with_values("classifier.weight", lambda weight: weight[:, :16]), "size mismatch|of another shape"),
    ):
        folder = changed(lambda weights, change=change: change(ranker(weights)), num_labels=1)
        with pytest.raises(ModelError, match=told):
            load_ranker(str(folder), cls_only=cls_only)


def test_an_embedder_and_the_baseline_begin_with_whole_encoders(changed):
    from rankdistill.embedder.embedder_model import TextEmbedder
    from rankdistill.models.encoder_embeddings import embed

    TextEmbedder.begin(changed(ranker), "mean", None, "eager")
    folder = changed(without("layer.1."))
    with pytest.raises(ModelError, match=r"missing: encoder\.layer\.1"):
        TextEmbedder.begin(folder, "mean", None, "eager")
    with pytest.raises(ModelError, match=r"missing: encoder\.layer\.1"):
        embed(["red"], folder, 16, "embed")
    folder = changed(without("pooler"))
    TextEmbedder.begin(folder, "mean", None, "eager")
    with pytest.raises(ModelError, match=r"missing: pooler"):
        TextEmbedder.begin(folder, "pooler", None, "eager")


def test_an_embedder_of_a_pooler_asks_for_one(changed):
    from rankdistill.pipeline.embedder_stages import locate

    folder = changed(without("pooler"))
    config = composed(f"teacher.model={folder}", *BASE, "embed=pca", "embed.pooling=pooler", "embed.max_length=16",
                      "embed.dimensions=[8]")  # fmt: skip
    with pytest.raises(ConfigError, match=r"embed\.pooling=pooler: allowed are mean, cls; .* has no pooler"):
        locate(config, folder)
