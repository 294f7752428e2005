"""The files of a model's tokenizer, read as transformers reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rankdistill.errors import ConfigError
from rankdistill.export.errors import is_fault
from rankdistill.models.model_config import read_object

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, NAMES, ADDED = "vocab.txt", "special_tokens_map.json", "added_tokens.json"
GENERIC = "PreTrainedTokenizer"  # takes tokenizer.json as it is
REBUILT = ("BertTokenizer", "ElectraTokenizer")  # set its normalizer anew
SPECIAL = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of a model's tokenizer.

    Attributes:
        folder: of the model.
        config: its config.json, the fields checked.
        content: of tokenizer.json.
        plain: the tokenizer that it holds, which neither cuts nor pads.
        told: of tokenizer_config.json; empty without.
        names: of special_tokens_map.json; empty without.
        added: of added_tokens.json; empty without.
    """

    folder: Path
    config: Mapping[str, Any]
    content: Mapping[str, Any]
    plain: Tokenizer
    told: Mapping[str, Any]
    names: Mapping[str, Any]
    added: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> TokenizerFiles:
        """Read a model's folder.

        Raises:
            ConfigError: if a file cannot be read.
        """
        content = read_object(folder / TOKENIZER)
        others = [read_object(folder / name) if (folder / name).is_file() else {} for name in (CONFIG, NAMES, ADDED)]
        return cls(folder, config, content, load_plain(folder / TOKENIZER), *others)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """The ids of tokenizer.json's tokens but the added ones."""
        listed = self.content.get("model", {}).get("vocab")
        return listed if isinstance(listed, dict) else self.plain.get_vocab(with_added_tokens=False)

    @cached_property
    def kind(self) -> Any:
        """The tokenizer's class by its name without "Fast", as AutoTokenizer finds it."""
        name = self.told.get("tokenizer_class") or self.config.get("tokenizer_class") or REBUILT[0]
        return name.removesuffix("Fast") if isinstance(name, str) else name

    @cached_property
    def special(self) -> dict[str, Any]:
        """The special tokens as transformers finds them: a name, or None."""
        found: dict[str, Any] = {} if self.kind == GENERIC else dict(SPECIAL)
        for source in [self.told] if "added_tokens_decoder" in self.told else [self.told, self.names]:
            found |= {name: content_of(source[name]) for name in SPECIAL if name in source}
        return {name: found.get(name) for name in SPECIAL}

    @cached_property
    def decoder(self) -> list[tuple[int, dict[str, Any]]]:
        """The added tokens of tokenizer_config.json by their ids, rising."""
        tokens = self.told.get("added_tokens_decoder", {}).items()
        return sorted(((int(number), token) for number, token in tokens), key=lambda each: each[0])

    def says(self, name: str) -> str:
        """Return why transformers takes its default of a field."""
        return f"{CONFIG} says no {name}" if (self.folder / CONFIG).is_file() else f"{CONFIG} is missing"


def load_plain(path: Path) -> Tokenizer:
    """Return a tokenizer that neither cuts nor pads.

    Raises:
        ConfigError: if the file holds none.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:  # tokenizers raises plain Exception, and a panic of its Rust is not even that
        if not is_fault(error):
            raise
        raise ConfigError(f"{path} is no tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def content_of(token: Any) -> Any:
    """Return the text of an added token, which files give as it is or with its marks."""
    return token.get("content") if isinstance(token, dict) else token
