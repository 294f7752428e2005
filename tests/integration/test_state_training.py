"""Training on hidden states: what is learned and saved, after a kill and in two processes too, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification

from rankdistill import options
from rankdistill.commands.distill import convert
from rankdistill.data import beir as beir_data
from rankdistill.data import tokens
from rankdistill.data.records import RankingData
from rankdistill.data.scored_pairs import Lessons
from rankdistill.data.tokens import PairTokens, TokenTable
from rankdistill.errors import ConfigError
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.losses.score_terms import weighted_loss
from rankdistill.losses.state_terms import score_terms, state_terms
from rankdistill.models import student
from rankdistill.options import Attention, Embedding, Fit, Hidden, Kl, Relations, Student, Train
from rankdistill.pipeline import teacher_stages
from rankdistill.sweep import plugins
from rankdistill.training.cost import encoder_parameters
from rankdistill.training.device import Device
from rankdistill.training.teacher_states import PROJECTIONS, imitating, unscored
from rankdistill.training.trainer import train_ranker
from tests.conftest import THINGS, WORDS, write_encoder
from tests.faults.test_kill import kill_once
from tests.integration.commands import distill, newest_run, small, table

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
FIT = Fit(epochs=2, learning_rate=1e-3, evaluations=5, dev_queries=None, keep="last", warmup=0.0)
TRAIN = Train(precision="fp32", attention="eager", freeze_embeddings=False)
DEVICE = Device("cpu", bf16=False, attention="eager")
TERMS = {"hidden": Hidden(), "embedding": Embedding(weight=0.5), "kl": Kl()}
STATES_ALONE = {"hidden": Hidden(), "embedding": Embedding()}


class Killed(BaseException):
    pass


def opened(folder):
    """The teacher, training and dev pairs of a folder that `made` wrote."""
    records, pair = RankingData.open(folder / "data"), PairEncoder.load(folder / "teacher", 24)
    pairs, dev = (
        PairTokens(records.splits[name], TokenTable.open(folder / "tokens"), pair) for name in ("train", "dev")
    )
    return SimpleNamespace(teacher=folder / "teacher", pairs=pairs, dev=dev)


@pytest.fixture(scope="module")
def made(beir, tmp_path_factory):
    """A teacher of three layers and the pairs of a small set."""
    folder = tmp_path_factory.mktemp("states")
    for name in ("data", "tokens"):
        (folder / name).mkdir()
    write_encoder(folder / "teacher", [*WORDS, *THINGS], layers=3)
    torch.manual_seed(1)
    model = BertForSequenceClassification.from_pretrained(folder / "teacher", num_labels=1)
    model.save_pretrained(folder / "teacher")
    beir_data.prepare(beir, folder / "data", name="things", relevant=1, candidates=12, dev_fraction=0.1, seed=0)
    tokens.write(RankingData.open(folder / "data"), PairEncoder.load(folder / "teacher", 24), folder / "tokens")
    return SimpleNamespace(folder=folder, **vars(opened(folder)))


def narrow(made, out, terms=TERMS, fit=FIT, watch=None, accumulate=1, attention="sdpa"):
    """Train a student of half the teacher's width; returns it and the weights of its projections."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig.from_pretrained(
            made.teacher,
            hidden_size=16,
            num_hidden_layers=2,
            intermediate_size=32,
            num_attention_heads=4,
            num_labels=1,
            attn_implementation=attention,
        )
    )
    scores = np.random.default_rng(0).normal(size=len(made.pairs)).astype(np.float32)
    known = {"teacher": scores, "grades": made.pairs.split.grade.astype("float32")}
    scored = score_terms(terms)
    with imitating(model, state_terms(terms), made.teacher, DEVICE) as imitation:
        train_ranker(
            model, made.pairs, made.dev, known, weighted_loss(scored, "logit") if scored else unscored,
            imitation=imitation, fit=fit, train=replace(TRAIN, accumulate=accumulate), device=DEVICE, seed=0, out=out,
            what="student", watch=watch,
        )  # fmt: skip
        projections = {name: each.weight.detach().clone() for name, each in imitation.projections.items()}
    return model, projections


def value(made, model, projections, terms=TERMS):
    """The terms' value on some pairs."""
    ids = {name: torch.from_numpy(each) for name, each in made.pairs.batch(np.arange(32)).items()}
    with imitating(model, state_terms(terms), made.teacher, DEVICE) as imitation, torch.no_grad():
        for name, weight in projections.items():
            imitation.projections[name].weight.copy_(weight)
        return imitation(model.eval(), ids)[1].item()


def test_a_training_killed_between_checkpoints_goes_on_to_the_same_student_and_projections(made, tmp_path):
    def die_late(share, _):
        if share > 0.7:
            raise Killed

    calm, storm = tmp_path / "calm", tmp_path / "storm"
    model, projections = narrow(made, calm)
    with pytest.raises(Killed):
        narrow(made, storm, watch=die_late)
    newest = max((storm / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    names = {f"{PROJECTIONS}.{name}.weight" for name in ("hidden", "embedding")}
    stopped = load_file(newest / "model.safetensors")
    assert names == {name for name in stopped if name.startswith(PROJECTIONS)}
    resumed, again = narrow(made, storm)
    assert model.state_dict().keys() == resumed.state_dict().keys()
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in model.state_dict().items())
    assert all(torch.equal(projections[name], again[name]) for name in projections)
    assert not torch.equal(stopped[f"{PROJECTIONS}.hidden.weight"], projections["hidden"])  # it went on


@pytest.mark.parametrize(
    "terms",
    [
        {"hidden": Hidden()},
        {"attention": Attention(layer_map=[0, 1])},
        {"embedding": Embedding()},
        {"relations": Relations(heads=4, teacher_layer=1)},
    ],
    ids=lambda terms: next(iter(terms)),
)
def test_each_term_alone_is_learned(made, tmp_path, terms):
    fit = replace(FIT, epochs=6, learning_rate=3e-3)
    still = replace(FIT, epochs=0.1, learning_rate=1e-12)
    before, after = (
        value(made, *narrow(made, tmp_path / name, terms, each), terms) for name, each in (("a", still), ("b", fit))
    )
    assert after < 0.8 * before


def test_projections_learn_at_the_heads_rate_and_count_in_no_cost(made, tmp_path):
    fit = replace(FIT, epochs=1, learning_rate=1e-9, head_rate=1e6)
    still = replace(FIT, epochs=0.1, learning_rate=1e-12)
    (begun, first), (model, last) = narrow(made, tmp_path / "a", fit=still), narrow(made, tmp_path / "b", fit=fit)
    body = [name for name, _ in model.named_parameters() if not name.startswith(("bert.pooler", "classifier"))]
    assert all(torch.allclose(model.state_dict()[n], begun.state_dict()[n], atol=1e-6) for n in body)
    assert all((last[name] - first[name]).abs().max() > 1e-3 for name in first)
    count = encoder_parameters(model)
    with imitating(model, state_terms(TERMS), made.teacher, DEVICE):
        assert encoder_parameters(model) == count


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_without_dropout_a_step_sees_the_student_that_is_evaluated(made, tmp_path, attention):
    model, _ = narrow(made, tmp_path, fit=replace(FIT, epochs=0.1), attention=attention)
    ids = {name: torch.from_numpy(each) for name, each in made.pairs.batch(np.arange(32)).items()}
    torch.testing.assert_close(model.train()(**ids).logits, model.eval()(**ids).logits)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_saved_is_an_ordinary_student(made, tmp_path, precision):
    terms = {"hidden": Hidden(), "attention": Attention(), "relations": Relations(heads=8), "kl": Kl()}
    student.write(
        made.teacher, Lessons(made.pairs, np.zeros(len(made.pairs), np.float32), "logit"), made.dev, layers=[0, 2],
        student=Student(layers=2, hidden_size=32, max_length=24, fit=FIT), terms=terms,
        train=Train(precision=precision, freeze_embeddings=True), seed=0, rivals=None, out=tmp_path,
    )  # fmt: skip
    _, info = BertForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    saved, teacher = (load_file(folder / "model.safetensors") for folder in (tmp_path, made.teacher))
    assert saved.keys() == {name for name in teacher if "layer.2" not in name}
    query = "bert.encoder.layer.1.attention.self.query.weight"
    assert not torch.equal(saved[query], teacher[query.replace("layer.1", "layer.2")])


TORCHRUN = """
import sys, pathlib, torch
from torch import distributed
from rankdistill import torchrun as ranks
from tests.integration import test_state_training as t
ranks.join()
folder, out = map(pathlib.Path, sys.argv[1:])
model, projections = t.narrow(t.opened(folder), out, t.STATES_ALONE)
mine = torch.cat([each.detach().ravel() for each in [*model.parameters(), *projections.values()]])
all_ = [torch.empty_like(mine) for _ in range(2)]
distributed.all_gather(all_, mine)
assert torch.equal(*all_)
if ranks.is_first():
    torch.save((model.state_dict(), projections), out / "trained.pt")
distributed.destroy_process_group()
"""


def test_two_processes_learn_what_one_learns_from_two_steps_added_up(made, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TORCHRUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, str(made.folder), str(tmp_path)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    state, projections = torch.load(tmp_path / "trained.pt")
    model, alone = narrow(made, tmp_path / "alone", STATES_ALONE, accumulate=2)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(state[name], weight, atol=1e-4, rtol=1e-3)
    assert all(torch.allclose(projections[name], alone[name], atol=1e-4) for name in alone)


def test_a_command_that_was_killed_ends_with_the_student_of_one_that_was_not(tmp_path, beir, encoder):
    storm, calm = tmp_path / "storm", tmp_path / "calm"
    storm.mkdir()
    arguments = [
        *small(beir, encoder), "student.hidden_size=16", "student.fit.epochs=20", "student.fit.evaluations=8",
    ]  # fmt: skip
    kill_once([*arguments, "loss=[hidden,kl]"], storm, "runs/stages/work-student-*/checkpoints/*/trainer_state.json")
    shutil.copytree(storm / "runs/stages", calm / "runs/stages", ignore=shutil.ignore_patterns("work-*"))
    done = distill(*arguments, "loss=[hidden,kl]", cwd=storm)
    assert done.returncode == 0, done.stderr
    assert "going on from checkpoint-" in done.stderr
    kill_once([*arguments, "loss=hidden+kl"], calm, "runs/stages/student-*/stage.json")
    trained = [next(folder.glob("runs/stages/student-*/model.safetensors")) for folder in (storm, calm)]
    assert trained[0].parent.name == trained[1].parent.name
    assert trained[0].read_bytes() == trained[1].read_bytes()
    student_row = [row for row in table(newest_run(storm))["rows"] if row["model"] == "student"][-1]
    assert student_row["retention"] > 0


def experiment(encoder, *overrides):
    options.register()
    plugins.register()
    with initialize_config_module(version_base="1.3", config_module="rankdistill.conf"):
        return convert(
            compose(
                "config",
                [
                    f"teacher.model={encoder}",
                    "teacher.sha256=null",
                    "student.hidden_size=32",
                    "student.layers=1",
                    *overrides,
                ],
            )
        )


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["loss=hidden", "loss.terms.hidden.layer_map=even"], "loss.terms.hidden.layer_map=even: allowed is uniform"),
        (["loss=hidden", "loss.terms.hidden.layer_map=[]"], "loss.terms.hidden.layer_map=[]: allowed is uniform"),
        (["loss=hidden", "loss.terms.hidden.layer_map=[-1]"], "loss.terms.hidden.layer_map=[-1]: allowed is uniform"),
        (["loss=attention", "loss.terms.attention.layer_map=[true]"], "loss.terms.attention.layer_map=[True]: allowed"),
        (["loss=hidden", "loss.terms.hidden.layer_map=[0,1]"], "allowed is uniform, or 1 of the teacher's layers"),
        (["loss=hidden", "loss.terms.hidden.layer_map=[2]"], "loss.terms.hidden.layer_map=[2]: allowed is uniform"),
        (["loss=relations", "loss.terms.relations.heads=0"], "loss.terms.relations.heads=0: allowed is a number >= 1"),
        (["loss=relations", "loss.terms.relations.heads=12"], "loss.terms.relations.heads=12: allowed is a number"),
        (["loss=relations", "loss.terms.relations.teacher_layer=2"], "loss.terms.relations.teacher_layer=2: allowed"),
        (["loss=hidden", "student.max_length=40"], "student.max_length=40: allowed is teacher.max_length=80 with"),
        (["loss=embedding"], "student.freeze_embeddings=None: allowed is false with loss.terms.embedding"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_before_anything_is_made(overrides, told, encoder):
    with pytest.raises(ConfigError) as refused:
        teacher_stages.locate_teacher(experiment(encoder, *overrides))
    assert told in str(refused.value)


def test_right_options_are_not_refused(encoder):
    teacher_stages.locate_teacher(experiment(encoder, "loss=hidden+kl", "loss.terms.hidden.layer_map=[0]"))
    teacher_stages.locate_teacher(
        experiment(encoder, "loss=hidden+kl", "loss.terms.hidden.weight=0", "student.max_length=40")
    )
    teacher_stages.locate_teacher(
        experiment(encoder, "loss=[embedding,relations,attention]", "train.freeze_embeddings=false")
    )
