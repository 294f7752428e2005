"""The words and options of `distill-update`: what they mean, and what is a mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from rankdistill.commands.update import composed, convert, parsed
from rankdistill.errors import ConfigError
from rankdistill.online.update import source_of
from rankdistill.options import AllUpdate, HeadUpdate, LoraUpdate, TopLayersUpdate

KINDS = {"head": HeadUpdate, "top_k_layers": TopLayersUpdate, "lora": LoraUpdate, "all": AllUpdate}
CONF = Path(__file__).parents[2] / "conf"


def config(*overrides, model="run"):
    return convert(composed(model, overrides))


def test_every_kind_of_update_has_a_file():
    assert {path.stem for path in (CONF / "update").glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_composes_and_holds(kind):
    found = config(f"update={kind}")
    assert type(found.update) is KINDS[kind]
    assert found.update.kind == kind


@pytest.mark.parametrize("model", ["runs/a b", "it's/here", "C:\\models\\x", "中文=x", "a,b", "{x}", "$[y]"])
def test_any_path_is_a_model(model):
    assert config(model=model).model == model


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["update=nothing"], "there are all, head, lora, top_k_layers"),
        (["update.epochs=-1"], r"update\.epochs=-1\.0: allowed is a number > 0"),
        (["keep=0", "follow.nice=77"], r"(?s)keep=0.*follow\.nice=77|follow\.nice=77.*keep=0"),
        (["update=head", "update.k=2"], "'k'"),
        (["update.epochz=1"], "epochz"),
        (["+update.epochz=1"], "no such option|epochz"),
        (["update.min_events=many"], "many"),
        (["update=lora", "update.optimizer=keep"], r"update\.optimizer=keep: allowed is new with update=lora"),
        (["update.workers=2"], r"update\.optimizer=keep: allowed is new with update\.workers=2"),
        (["update.labels=0", "update.replay=0", "update.anchor=0"], "at least one must teach"),
        (
            ["follow.drift=true", "drift.measure=brier"],
            r"drift\.measure=brier: allowed is ndcg@10 with follow\.drift=true",
        ),
        (["catalogue=/nowhere"], "catalogue=/nowhere: allowed is an existing folder"),
        (["update.sign=/nowhere"], "an existing file with a private key"),
        (["feedback.grades={click: -1}"], r"feedback\.grades"),
        (["update=???"], "update"),
        (["events=~/log"], "events=~/log: cannot be read; quote it: \"events='~/log'\""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_told(overrides, told):
    with pytest.raises(ConfigError, match=told):
        config(*overrides)


def test_options_that_are_told_reach_their_places():
    found = config("update=lora", "update.rank=2", "feedback.late=keep", "follow.every_s=null", "seed=7", "keep=2")
    assert (found.update.rank, found.feedback.late, found.follow.every_s) == (2, "keep", None)
    assert (found.seed, found.keep) == (7, 2)
    assert OmegaConf.is_config(composed("run", ["seed=7"]))


def test_a_log_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source_of(config("events='~/log'")) == str(tmp_path / "log")
    assert source_of(config("events=somebody/events")) == "somebody/events"


def test_words_in_any_order():
    words = parsed(["run", "events=log", "--follow", "update=head"])
    assert (words.model, words.overrides, words.follow) == ("run", ["events=log", "update=head"], True)
    words = parsed(["run", "--rollback", "published=p"])
    assert (words.rollback, words.overrides) == ("", ["published=p"])
    words = parsed(["run", "--rollback", "3", "published=p"])
    assert (words.rollback, words.overrides) == ("3", ["published=p"])
    assert parsed(["run"]).rollback is None


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--versions"],
        ["run", "--follow", "--prune"],
        ["run", "--rollback", "x"],
        ["run", "events"],
        ["run", "--foll"],
    ],
)
def test_words_that_are_wrong(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(arguments)
    assert ended.value.code == 2
    assert "usage: distill-update" in capsys.readouterr().err


def test_every_option_is_told_in_the_docs():
    text = (CONF.parent / "docs/updates.md").read_text(encoding="utf-8")
    found = yaml.safe_load((CONF / "update.yaml").read_text(encoding="utf-8"))
    options = {name for name in found if name not in ("defaults", "feedback", "follow", "drift", "train", "update")}
    for group in ("feedback", "follow", "drift"):
        options |= set(found[group])
    for path in [*(CONF / "update").glob("*.yaml"), CONF / "update/of/defaults.yaml"]:
        options |= set(yaml.safe_load(path.read_text(encoding="utf-8"))) - {"defaults"}
    words = set(re.findall(r"[A-Za-z_]\w*", text))
    assert sorted(options - words) == []
