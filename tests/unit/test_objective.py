"""The weighted sum of losses: what it sums, what it refuses, and that every file of conf/loss gives its term."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rankdistill import options
from rankdistill.data.records import ArrowWriter
from rankdistill.errors import ConfigError, StoreError
from rankdistill.losses import score_losses
from rankdistill.losses.score_terms import SCORE_LOSSES, weighted_loss
from rankdistill.options import AdrMse, Kl, Labels, LambdaLoss, MarginMse, Mse, RankNet
from rankdistill.training import scoring
from tests.composing import composed

FILES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/loss").glob("*.yaml"))


def batch(groups=3, size=5):
    torch.manual_seed(0)
    student, teacher = torch.randn(groups, size), torch.randn(groups, size)
    mask = torch.ones(groups, size, dtype=torch.bool)
    mask[0, 3:] = False
    grades = torch.randint(0, 3, (groups, size)).float()
    return student, {"teacher": teacher, "grades": grades, "mask": mask}


def test_it_is_the_weighted_sum_of_every_term():
    student, b = batch()
    given = {
        "mse": (Mse(weight=2.0), score_losses.mse(student, b["teacher"], b["mask"])),
        "margin_mse": (MarginMse(weight=0.5), score_losses.margin_mse(student, b["teacher"], b["mask"])),
        "kl": (Kl(weight=3.0, temperature=2.0), score_losses.kl(student, b["teacher"], b["mask"], 2.0)),
        "ranknet": (RankNet(weight=1.5, sigma=0.5), score_losses.ranknet(student, b["teacher"], b["mask"], 0.5)),
        "lambda_loss": (
            LambdaLoss(weight=0.1, sigma=2.0, mu=5.0),
            score_losses.lambda_loss(student, b["teacher"], b["mask"], 2.0, 5.0),
        ),
        "adr_mse": (AdrMse(weight=0.7, temperature=0.3), score_losses.adr_mse(student, b["teacher"], b["mask"], 0.3)),
        "labels": (Labels(weight=4.0), score_losses.listwise_labels(student, b["grades"], b["mask"])),
    }
    assert {type(term) for term, _ in given.values()} == set(SCORE_LOSSES)
    total = weighted_loss({name: term for name, (term, _) in given.items()}, "logit")(student, b)
    assert total.item() == pytest.approx(sum(term.weight * value.item() for term, value in given.values()))
    for name, (term, value) in given.items():
        alone = {other: replace(t, weight=t.weight * (other == name)) for other, (t, _) in given.items()}
        assert weighted_loss(alone, "logit")(student, b).item() == pytest.approx(term.weight * value.item())


@pytest.mark.parametrize("kind", SCORE_LOSSES, ids=lambda kind: kind.__name__)
def test_a_term_takes_probabilities_only_if_it_is_the_same_with_them(kind):
    student, b = batch()
    value = SCORE_LOSSES[kind].value
    from_logits = value(kind(), student, b)
    from_probabilities = value(kind(), student, b | {"teacher": b["teacher"].sigmoid()})
    assert torch.equal(from_logits, from_probabilities) == ("probability" in SCORE_LOSSES[kind].scales)


def test_every_term_that_cannot_take_the_scale_is_told():
    terms = {"kl": Kl(), "labels": Labels(), "mse": Mse(), "adr_mse": AdrMse(weight=0.0)}
    with pytest.raises(ConfigError) as refused:
        weighted_loss(terms, "probability")
    line = "loss.terms.{}: the teacher's scores are of scale probability: allowed is logit"
    assert str(refused.value).splitlines() == [line.format("kl"), line.format("mse")]
    student, b = batch()
    labels = score_losses.listwise_labels(student, b["grades"], b["mask"])
    assert weighted_loss({"labels": Labels()}, "probability")(student, b) == labels
    with pytest.raises(ConfigError, match=r"loss\.terms\.labels: .* scale odds: allowed is logit or probability"):
        weighted_loss({"labels": Labels()}, "odds")


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("teacher", lambda v: v[:, :4], r"teacher is \[3, 4\], scores are \[3, 5\]"),
        ("teacher", lambda v: v[:1], r"teacher is \[1, 5\]"),  # would broadcast
        ("grades", lambda v: v[:, 0], r"grades is \[3\]"),
        ("mask", lambda v: v[:, :1], r"mask is \[3, 1\]"),
        ("mask", lambda v: v.float(), r"mask is torch\.float32, not torch\.bool"),
        ("grades", lambda _: None, "the batch has no grades"),
    ],
)
def test_what_does_not_fit_the_scores_is_named(name, change, told):
    student, b = batch()
    changed = {key: change(value) if key == name else value for key, value in b.items()}
    changed = {key: value for key, value in changed.items() if value is not None}
    with pytest.raises(ValueError, match=told):
        weighted_loss({"kl": Kl()}, "logit")(student, changed)


def test_scores_are_of_groups():
    student, b = batch()
    with pytest.raises(ValueError, match=r"scores are \[15\], not \[groups, size\]"):
        weighted_loss({"kl": Kl()}, "logit")(student.ravel(), {key: value.ravel() for key, value in b.items()})


@pytest.mark.parametrize("name", FILES)
def test_every_loss_of_conf_composes_and_gives_its_terms(name):
    terms = composed(f"loss={name}").loss.terms
    known = options.NODES["schema/term"]
    assert {term: type(value) for term, value in terms.items()} == {part: known[part] for part in name.split("+")}
    assert all(value == type(value)() for value in terms.values() if type(value) in SCORE_LOSSES)  # the files' numbers


def test_losses_are_listed_on_the_command_line():
    given = composed("loss=[adr_mse,kl]", "loss.terms.adr_mse.temperature=0.5", "loss.terms.kl.weight=2")
    assert given.loss.terms == {"adr_mse": AdrMse(temperature=0.5), "kl": Kl(weight=2.0)}


@pytest.mark.parametrize(
    ("loss", "option", "allowed"),
    [
        ("ranknet", "loss.terms.ranknet.sigma=0.0", "a number > 0"),
        ("lambda_loss", "loss.terms.lambda_loss.sigma=-1.0", "a number > 0"),
        ("lambda_loss", "loss.terms.lambda_loss.mu=-0.5", "a number >= 0"),
        ("adr_mse", "loss.terms.adr_mse.temperature=0.0", "a number > 0"),
        ("mse", "loss.terms.mse.weight=-1.0", "a number >= 0"),
    ],
)
def test_options_out_of_range_are_refused(loss, option, allowed):
    with pytest.raises(ConfigError) as refused:
        composed(f"loss={loss}", option)
    assert f"{option}: allowed is {allowed}" in str(refused.value)


def stage(folder, values, **summary):
    writer = ArrowWriter(folder / "scores.arrow", scoring.SCHEMA)
    for value in values:
        writer.add(value)
    writer.close()
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_stored_scores_tell_their_scale(tmp_path):
    folder = stage(tmp_path, [-3.0, 0.5, 1e3], scale="logit")
    assert scoring.scale(folder) == "logit"
    assert scoring.read(folder).dtype == np.float32
    assert scoring.scale(stage(tmp_path, [0.0, 0.5, 1.0], scale="probability")) == "probability"
    assert scoring.SCALE in score_losses.SCALES


@pytest.mark.parametrize(
    ("values", "summary", "told"),
    [
        ([0.5], {"scale": "percent"}, r"summary\.json: scale=percent: allowed is logit or probability"),
        ([0.5], {}, r"summary\.json: scale=None: allowed is logit or probability"),
        (
            [0.5, 1.5],
            {"scale": "probability"},
            r"pair 1 has 1\.5: allowed with scale=probability is a number from 0 to",
        ),
        ([-0.1], {"scale": "probability"}, r"pair 0 has -0\.1: allowed with scale=probability"),
        ([0.0, 1.0, np.nan], {"scale": "probability"}, r"pair 2 has nan: allowed with scale=probability"),
        ([0.0, np.nan], {"scale": "logit"}, r"pair 1 has nan: allowed with scale=logit is a finite number"),
        ([np.inf], {"scale": "logit"}, r"pair 0 has inf: allowed with scale=logit"),
    ],
)
def test_scores_that_are_not_what_they_are_declared_to_be_are_refused(values, summary, told, tmp_path):
    with pytest.raises(StoreError, match=told):
        scoring.scale(stage(tmp_path, values, **summary))
