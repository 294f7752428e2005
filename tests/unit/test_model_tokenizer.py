"""A model's tokenizer files agree: what transformers makes of them reads texts as tokenizer.json does."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from rankdistill.errors import ConfigError
from rankdistill.models.model_tokenizer import tokenizer_problems
from tests.conftest import THINGS, WORDS, write_tokenizer

TEXTS = (
    "Red boat", "caf\u00e9", "\u7ea2\u8239 boat", "a [MASK] b", "red<new>boat <NEW>", "a\x07b", "[cls] [SEP]", "bored",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "model"
    folder.mkdir()
    write_tokenizer(folder, [*WORDS, *THINGS])
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


@pytest.fixture
def changed(tmp_path, made):
    """Return a copy of the tokenizer in whose files something was changed: a dictionary is merged, None removes."""

    def merge(content, values):
        for name, value in values.items():
            if value is None and name in content and name != "strip_accents":
                del content[name]
            elif isinstance(value, dict) and isinstance(content.get(name), dict):
                merge(content[name], value)
            else:
                content[name] = value

    def make(files):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        for name, values in files.items():
            path = folder / name
            if values is None:
                path.unlink()
            elif isinstance(values, str):
                path.write_text(values, encoding="utf-8")
            else:
                content = json.loads(path.read_text()) if path.is_file() else {}
                merge(content, values)
                path.write_text(json.dumps(content))
        return folder

    return make


def problems(folder, rows=None, **config):
    rows = rows or len((folder / "vocab.txt").read_text().splitlines())
    return "\n".join(tokenizer_problems(folder, {"vocab_size": rows, "pad_token_id": 0} | config))


def plain(**flags):
    return {"tokenizer.json": {"normalizer": flags}}


def told(**fields):
    return {"tokenizer_config.json": fields}


TEMPLATE = {"type_id": 0}
RED = {"content": "red", "special": False, "normalized": False}
NEW = {"content": "<new>", "special": False}
AGREE = {
    "as they are": {},
    "no tokenizer_config.json, in lower case": {"tokenizer_config.json": None},
    "nothing said of it, in lower case": told(do_lower_case=None),
    "no vocab.txt": {"vocab.txt": None},
    "both keep case": plain(lowercase=False) | told(do_lower_case=False),
    "both keep accents": plain(strip_accents=False) | told(strip_accents=False),
    "the same by default": plain(strip_accents=True),
    "a class that takes it as it is": plain(lowercase=False) | told(tokenizer_class="PreTrainedTokenizerFast"),
    "cut and padded": {"tokenizer.json": {
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Left"},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"}}},
}  # fmt: skip
DIFFER = {
    "keeps case": (
        plain(lowercase=False),
        r'tokenizer\.json keeps case, tokenizer_config\.json lowers it; make them agree: write "do_lower_case": false',
    ),
    "lowers case": (
        told(do_lower_case=False),
        r'tokenizer\.json lowers case, tokenizer_config\.json keeps it; .* "do_lower_case": true',
    ),
    "no config": (
        plain(lowercase=False) | {"tokenizer_config.json": None},
        r"keeps case, transformers, as tokenizer_config\.json is missing, lowers it",
    ),
    "nothing said of case": (
        plain(lowercase=False) | told(do_lower_case=None),
        r"keeps case, transformers, as tokenizer_config\.json says no do_lower_case, lowers it",
    ),
    "accents": (
        told(strip_accents=False),
        r'strips accents, tokenizer_config\.json keeps them; .*"strip_accents": true',
    ),
    "Chinese": (
        told(tokenize_chinese_chars=False),
        r'parts Chinese characters, tokenizer_config\.json joins them; .*"tokenize_chinese_chars": true',
    ),
    "a word made a token": (told(added_tokens_decoder={"5": RED}), r"reads .*reda.* transformers.* as "),
    "a special token more": (told(additional_special_tokens=["<new>"]), r"reads .*<new>.* transformers.* as "),
    "special tokens in texts": (told(split_special_tokens=True), r"reads .*\[PAD\].* transformers.* as "),
}


def encoded(folder):
    """Return texts as tokenizer.json has them, and as transformers has them."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    own, theirs = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    own.no_truncation()
    own.no_padding()
    return [own.encode(text).ids for text in TEXTS], [theirs(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("files", AGREE.values(), ids=AGREE)
def test_files_that_agree_are_taken_and_transformers_reads_the_same(files, changed, made):
    folder = changed(files)
    assert problems(folder, len((made / "vocab.txt").read_text().splitlines())) == ""
    own, theirs = encoded(folder)
    assert own == theirs


@pytest.mark.parametrize(("files", "message"), DIFFER.values(), ids=DIFFER)
def test_files_that_differ_are_told_and_transformers_reads_otherwise(files, message, changed):
    folder = changed(files)
    found = problems(folder)
    assert re.search(message, found), found
    own, theirs = encoded(folder)
    assert own != theirs


@pytest.mark.parametrize(
    ("files", "config", "message"),
    [
        ({}, {"vocab_size": 100}, r"tokens beyond the 100 rows of the word table: \S+ \(100\), .* and \d+ more"),
        (
            {"tokenizer.json": {"added_tokens": [{"id": 4000, "content": "<new>", "single_word": False, "lstrip": False,
                                                  "rstrip": False, "normalized": False, "special": True}]}},
            {}, r"tokens beyond .*<new> \(\d+\)",
        ),
        ({}, {"pad_token_id": 3}, r"pad_token_id is 3; tokenizer\.json has \[PAD\] at 0"),
        (told(cls_token="[SEP]"), {}, r'cls_token is "\[SEP\]", id 3; tokenizer\.json takes \[CLS\], id 2'),
        (told(sep_token="<s>"), {}, r'sep_token is "<s>", which tokenizer\.json does not have'),
        (told(unk_token="[MASK]"), {}, r'unk_token is "\[MASK\]", id 4; tokenizer\.json takes \[UNK\], id 1'),
        (told(added_tokens_decoder={"7": NEW}), {}, r"the token <new> has id 7; tokenizer\.json has no such token"),
        (
            {"added_tokens.json": {"<new>": 900}}, {},
            r"added_tokens\.json: the token <new> has id 900; tokenizer\.json has no such token",
        ),
        (told(added_tokens_decoder=[1]), {}, r"added_tokens_decoder is \[1\]; allowed"),
        (told(tokenizer_class="RobertaTokenizer"), {}, "tokenizer_class is .*Roberta.*; allowed for a BERT are"),
        (told(do_lower_case="no"), {}, 'do_lower_case is "no"; allowed is true or false'),
        (told(model_input_names=["input_ids"]), {}, "model_input_names is .*; allowed is a list with token_type_ids"),
        (told(model_max_length="512"), {}, 'model_max_length is "512"; allowed is a number'),
        ({"vocab.txt": "[PAD]\nred\n"}, {"vocab_size": 999}, r"vocab\.txt:2 is 'red', id 1; tokenizer\.json has id"),
        ({"vocab.txt": "[PAD]\n[UNK]\n"}, {"vocab_size": 999}, r"vocab\.txt lacks tokens of tokenizer\.json"),
        ({"tokenizer.json": {"normalizer": None}}, {}, "has no normalizer"),
        ({"tokenizer.json": {"post_processor": None}}, {}, r"does not join a pair as \[CLS\] query"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(files, config, message, changed):
    found = problems(changed(files), **config)
    assert re.search(message, found), found


PAIR = ["[CLS]", "A", "[SEP]", "B", "[SEP]"]


@pytest.mark.parametrize(
    ("order", "types"),
    [
        (PAIR, [0, 0, 0, 0, 0]),
        (["[CLS]", "B", "[SEP]", "A", "[SEP]"], [0, 0, 0, 1, 1]),
        (["[CLS]", "A", "[CLS]", "B", "[SEP]"], [0, 0, 0, 1, 1]),
        (PAIR[:-1], [0, 0, 0, 1]),
    ],
)
def test_a_pair_that_is_joined_otherwise_is_refused(order, types, changed):
    pair = [
        {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": kind}}
        for name, kind in zip(order, types, strict=True)
    ]
    assert "does not join a pair" in problems(changed({"tokenizer.json": {"post_processor": {"pair": pair}}}))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("text", ["{", "[1]", "\ufeff{}"])
def test_what_is_no_json_is_told_by_its_file(name, text, changed):
    with pytest.raises(ConfigError, match=rf"/{name} (cannot be read as JSON|holds list)"):
        problems(changed({name: text}))


def test_a_field_that_may_name_code_is_refused(changed):
    assert "has 'auto_map', which is not known" in problems(changed(told(auto_map={"AutoTokenizer": "evil--x.T"})))


@pytest.mark.parametrize("text", ["{}", '{"model": {}}', '{"model": {"type": "WordPiece", "vocab": {}}}'])
def test_what_is_no_tokenizer_is_told_by_its_file(text, changed):
    try:
        found = problems(changed({"tokenizer.json": text}))
    except ConfigError as error:
        found = str(error)
    assert "tokenizer.json" in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "files",
    [
        plain(lowercase=False) | {"tokenizer_config.json": None},
        plain(lowercase=False, strip_accents=True) | told(tokenizer_class="PreTrainedTokenizerFast"),
        plain(handle_chinese_chars=False) | told(do_lower_case=False),
        told(padding_side="left", truncation_side="left", model_input_names=["input_ids", "attention_mask"]),
        {"tokenizer.json": {"normalizer": {"type": "Lowercase"}}} | told(do_lower_case=False),
    ],
)
def test_a_bundle_carries_no_contradiction(files, changed):
    from transformers import AutoTokenizer

    from rankdistill.export.bundle.writer import tokenizer_config

    folder = changed(files)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(folder, 24)))
    own, theirs = encoded(folder)
    assert own == theirs
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["red", "red"], ["blue", "blue " * 40], truncation=True, padding=True)
    assert batch["attention_mask"][0] == [1] * 5 + [0] * 19
    assert batch["token_type_ids"][0][:5] == [0, 0, 0, 1, 1]
    assert batch["input_ids"][1][:4] == tokenizer("red", "blue")["input_ids"][:4]
