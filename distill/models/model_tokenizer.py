"""Whether a model's tokenizer files agree: tokenizer.json, which is read here, and what transformers reads beside it.

BertTokenizerFast sets the normalizer of tokenizer.json anew by tokenizer_config.json, whose default is lower case, and
adds tokens that other files name. Where they differ nobody knows by which of them the model was trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers

from rankdistill.errors import ConfigError
from rankdistill.export.bundle.known_fields import code_problems
from rankdistill.export.errors import ModelError
from rankdistill.export.runtime.text.tokens import pair_ends
from rankdistill.export.torch_models.bert_weights import named
from rankdistill.models.tokenizer_files import (
    ADDED,
    CONFIG,
    GENERIC,
    REBUILT,
    TOKENIZER,
    VOCABULARY,
    TokenizerFiles,
    content_of,
    load_plain,
)

MORE = ("additional_special_tokens", "extra_special_tokens")
MARKS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # of an added token
FLAGS = {  # BertTokenizerFast's defaults, and the normalizer's names of them
    "do_lower_case": (True, "lowercase"),
    "strip_accents": (None, "strip_accents"),
    "tokenize_chinese_chars": (True, "handle_chinese_chars"),
}
HABITS = (  # a field, a text that shows it, what is done to which part of the text without it and with it
    ("do_lower_case", "A", "keeps", "lowers", ("case", "it")),
    ("strip_accents", "\u00e9", "keeps", "strips", ("accents", "them")),
    ("tokenize_chinese_chars", "\u7ea2\u8239", "joins", "parts", ("Chinese characters", "them")),
)
PROBES = ("Red boats, a LAMP!", "Caf\u00e9 stra\u00dfe e\u0301", "\u7ea2\u8239 red\u8239boat \u304b\u306a", "a\x07b\tc")
AGREE = "take the files of one model"


def tokenizer_problems(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a model's tokenizer.

    Args:
        folder: of the model.
        config: of the model, its fields checked.

    Raises:
        ConfigError: if a file cannot be read.
    """
    files = TokenizerFiles.read(folder, config)
    yield from (f"{CONFIG} {told}" for told in code_problems(CONFIG, files.told))
    try:
        cls, sep = pair_ends(files.plain)
    except ModelError as error:
        yield f"{TOKENIZER}: {error}"
        return
    except Exception as error:  # of tokenizers: a text that it has no token for, and none for what is unknown
        yield f"{TOKENIZER} tokenises no text: {error}"
        return
    found = [*_type_problems(files), *_table_problems(files), *_vocabulary_problems(files)]
    if not found:
        found = [*_special_problems(files, cls, sep), *_added_problems(files)]
    yield from found or _reading_problems(files)


def _type_problems(files: TokenizerFiles) -> Iterator[str]:
    told = files.told
    if files.kind not in (GENERIC, *REBUILT):
        allowed = ", ".join((*REBUILT, f"{GENERIC}Fast"))
        yield f"{CONFIG}: tokenizer_class is {json.dumps(files.kind)}; allowed for a BERT are {allowed}"
    for name, (default, _) in FLAGS.items():
        if name in told and not isinstance(told[name], bool) and (told[name] is not None or default is not None):
            yield f"{CONFIG}: {name} is {json.dumps(told[name])}; allowed is true or false"
    inputs = told.get("model_input_names", ["token_type_ids"])
    if not isinstance(inputs, list) or "token_type_ids" not in inputs:
        yield f"{CONFIG}: model_input_names is {json.dumps(inputs)}; allowed is a list with token_type_ids"
    decoder = told.get("added_tokens_decoder", {})
    tokens = decoder if isinstance(decoder, dict) else {"": decoder}
    if not all(
        number.isdecimal() and isinstance(token, dict) and "content" in token for number, token in tokens.items()
    ):
        yield f"{CONFIG}: added_tokens_decoder is {json.dumps(decoder)[:60]}; allowed are tokens by their ids"
    longest = told.get("model_max_length", 512)
    if not isinstance(longest, (int, float)) or isinstance(longest, bool) or longest < 1:
        yield f"{CONFIG}: model_max_length is {json.dumps(longest)}; allowed is a number >= 1"


def _table_problems(files: TokenizerFiles) -> Iterator[str]:
    """Yield tokens that the word table has no row for."""
    rows = int(files.config["vocab_size"])
    added = {token.content: number for number, token in files.plain.get_added_tokens_decoder().items()}
    beyond = sorted(
        (number, token) for each in (files.vocabulary, added) for token, number in each.items() if number >= rows
    )
    if beyond:
        tokens = named(list(dict.fromkeys(f"{token} ({number})" for number, token in beyond)))
        yield (
            f"{TOKENIZER} has tokens beyond the {rows} rows of the word table: {tokens}; give them rows "
            "(resize_token_embeddings), or take them out"
        )


def _vocabulary_problems(files: TokenizerFiles) -> Iterator[str]:
    """Yield where vocab.txt, which transformers' slow tokenizer reads, has other tokens."""
    path = files.folder / VOCABULARY
    if not path.is_file():
        return
    try:
        with path.open(encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    listed = {token: number for number, token in enumerate(lines)}
    if listed == files.vocabulary:
        return
    for token, number in listed.items():
        if files.plain.token_to_id(token) != number:
            there = files.plain.token_to_id(token)
            where = f"id {there}" if there is not None else "no such token"
            yield f"{VOCABULARY}:{number + 1} is {token!r}, id {number}; {TOKENIZER} has {where}; {AGREE}"
            return
    if lost := [token for token in files.vocabulary if token not in listed]:
        yield f"{VOCABULARY} lacks tokens of {TOKENIZER}: {named(lost)}; {AGREE}"


def _special_problems(files: TokenizerFiles, cls: int, sep: int) -> Iterator[str]:
    plain, padding = files.plain, files.config.get("pad_token_id")
    alone = plain.encode("a", add_special_tokens=False).ids
    if plain.encode("a").ids != [cls, *alone, sep]:
        yield f"{TOKENIZER} does not put a text as [CLS] text [SEP]; not a BERT tokenizer"
    unknown = getattr(plain.model, "unk_token", None)
    read = {"cls_token": cls, "sep_token": sep}
    if unknown is not None and (known := plain.token_to_id(unknown)) is not None:
        read["unk_token"] = known
    for name, token in files.special.items():
        if token is None and name != "pad_token":
            continue
        number = plain.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            yield f"{CONFIG}: {name} is {json.dumps(token)}, which {TOKENIZER} does not have"
        elif number != read.get(name, number):
            meant = plain.id_to_token(read[name])
            yield f"{CONFIG}: {name} is {json.dumps(token)}, id {number}; {TOKENIZER} takes {meant}, id {read[name]}"
        elif name == "pad_token" and padding not in (None, number):
            yield f"config.json: pad_token_id is {padding}; {TOKENIZER} has {token} at {number}"


def _added_problems(files: TokenizerFiles) -> Iterator[str]:
    """Yield where other files give an added token another id than tokenizer.json."""
    listed = [(CONFIG, str(content_of(token)), number) for number, token in files.decoder]
    listed += [(ADDED, token, number) for token, number in files.added.items()]
    for file, token, number in listed:
        there = files.plain.token_to_id(token)
        if there != number:
            where = f"id {there}" if there is not None else "no such token"
            yield f"{file}: the token {token} has id {number}; {TOKENIZER} has {where}; {AGREE}"


def _reading_problems(files: TokenizerFiles) -> Iterator[str]:
    """Yield the first way in which transformers reads a text otherwise than tokenizer.json."""
    rebuilt = files.kind in REBUILT
    if rebuilt and files.plain.normalizer is None:
        yield f"{TOKENIZER} has no normalizer, which {files.kind}Fast asks for; {GENERIC}Fast does not"
        return
    flags = _flags(files) if rebuilt else None
    more, splits = _more_tokens(files), bool(files.told.get("split_special_tokens", False))
    if flags is None and not more and not splits:
        return
    other = load_plain(files.folder / TOKENIZER)
    if flags is not None:
        other.normalizer = normalizers.BertNormalizer(**flags)
    other.add_tokens(more)
    other.encode_special_tokens = splits
    habits = [*_habit_problems(files, other)] if flags is not None else []
    yield from habits or _probe_problems(files, other)


def _flags(files: TokenizerFiles) -> dict[str, Any] | None:
    """Return what BertTokenizerFast makes a normalizer of in place of tokenizer.json's; None if it leaves that."""
    state = files.content["normalizer"]
    if state["type"] != "BertNormalizer":
        return None
    asked = {own: files.told.get(name, default) for name, (default, own) in FLAGS.items()}
    same = all(state.get(own) == value for own, value in asked.items())
    return None if same else {"clean_text": state.get("clean_text", True)} | asked


def _more_tokens(files: TokenizerFiles) -> list[AddedToken]:
    """Return the tokens that transformers adds to those of tokenizer.json, or marks otherwise."""
    there = files.plain.get_added_tokens_decoder().values()
    marked, contents = {repr(token) for token in there}, {token.content for token in there}
    tokens = [token for token in (_added(token) for _, token in files.decoder) if repr(token) not in marked]
    listed = [*files.special.values(), *files.added]
    listed += [token for source in (files.told, files.names) for name in MORE for token in _listed(source.get(name))]
    new = (token for token in dict.fromkeys(listed) if isinstance(token, str) and token not in contents)
    return tokens + [AddedToken(token, special=True, normalized=False) for token in new]


def _added(token: Mapping[str, Any]) -> AddedToken:
    return AddedToken(str(token["content"]), **{name: bool(token[name]) for name in MARKS if name in token})


def _listed(tokens: Any) -> list[Any]:
    tokens = [*tokens.values()] if isinstance(tokens, dict) else tokens
    return [str(content_of(token)) for token in tokens] if isinstance(tokens, list) else []


def _habit_problems(files: TokenizerFiles, other: Tokenizer) -> Iterator[str]:
    for name, text, kept, changed, (part, it) in HABITS:
        here, there = (each.normalizer.normalize_str(text) for each in (files.plain, other))
        if here != there:
            ours, theirs = (kept, changed) if here == text else (changed, kept)
            where = CONFIG if name in files.told else f"transformers, as {files.says(name)},"
            yield (
                f"{TOKENIZER} {ours} {part}, {where} {theirs} {it}; make them agree: write "
                f'"{name}": {json.dumps(here != text)} into {CONFIG} if the model was trained as {TOKENIZER} says'
            )
            return  # with lower case accents are stripped by default: what follows may be its consequence


def _probe_problems(files: TokenizerFiles, other: Tokenizer) -> Iterator[str]:
    added = [token.content for each in (files.plain, other) for token in each.get_added_tokens_decoder().values()]
    for text in (*PROBES, *(f"red {token}a {token.swapcase()} {token} ." for token in dict.fromkeys(added))):
        here, there = (each.encode(text, add_special_tokens=False) for each in (files.plain, other))
        if here.ids != there.ids:
            ours, theirs = (" ".join(each.tokens) for each in (here, there))
            yield (
                f"{TOKENIZER} reads {text!r} as {ours!r}, transformers, by {CONFIG}, as {theirs!r}; "
                "make them agree: load the tokenizer that the model was trained with, and save it again"
            )
            return
