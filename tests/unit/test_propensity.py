"""Inverse propensity weights against a click model whose relevance and propensities are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import kendalltau

from rankdistill.data.records import UNKNOWN
from rankdistill.errors import DataError
from rankdistill.online.events.catalogue import Catalogue
from rankdistill.online.events.feedback import read_feedback
from rankdistill.online.events.propensity import estimate_eta, inverse_weights, power_propensity
from rankdistill.options.update import Events

RELEVANCE = np.linspace(0.2, 0.55, 8)


def click_log(seed, events, eta, query_texts=("q",)):
    """Clicks by the position-based model: looked at with (1 / position)^eta, then clicked with its relevance.

    The list is served by a bad model, in about the reverse of the relevance, with noise.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(events):
        order = np.argsort(RELEVANCE + rng.normal(0, 0.12, len(RELEVANCE)))
        looked = rng.random(len(order)) < (1 / np.arange(1, len(order) + 1)) ** eta
        clicked = looked & (rng.random(len(order)) < RELEVANCE[order])
        rows.append(
            {
                "id": f"e{number}", "time": 0, "query": {"text": query_texts[number % len(query_texts)]},
                "items": [
                    {"id": f"i{item}", "text": f"t{item}", "position": place + 1, "outcome": "click" if hit else "skip"}
                    for place, (item, hit) in enumerate(zip(order.tolist(), clicked.tolist(), strict=True))
                ],
            }
        )  # fmt: skip
    return rows


def read(tmp_path, rows, least=0, **options):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_feedback(path, None, Events(**options), Catalogue(), least=least)


def click_rate(found):
    """Of each item, in the order of RELEVANCE; weighted, an estimate of the relevance itself (Joachims et al. 2017)."""
    number = np.array([int(name[1:]) for name in found.item_ids])[found.split.item]
    return np.bincount(number, found.weight * found.split.grade) / np.bincount(number)


@pytest.mark.parametrize("eta", [0.8, 1.0])
def test_weighted_clicks_recover_the_order_that_the_click_rate_gets_wrong(tmp_path, eta):
    rows = click_log(0, 8000, eta)
    plain = click_rate(read(tmp_path, rows))
    weighted = click_rate(read(tmp_path, rows, propensity="power", eta=eta))
    assert kendalltau(plain, RELEVANCE).statistic < 0
    assert kendalltau(weighted, RELEVANCE).statistic > 0.9
    assert np.abs(weighted - RELEVANCE).max() < 0.05


def test_without_bias_the_weights_that_suppose_one_are_wrong(tmp_path):
    rows = click_log(0, 3000, 0.0)
    assert kendalltau(click_rate(read(tmp_path, rows)), RELEVANCE).statistic > 0.9
    wrong = click_rate(read(tmp_path, rows, propensity="power", eta=1.0))
    assert np.abs(wrong - RELEVANCE).max() > 0.2


def test_propensity_by_its_formula():
    position = np.array([0, 1, 2, 4, 10], dtype=np.int32)
    assert power_propensity(position, 0.5) == pytest.approx([1, 1, 2**-0.5, 0.5, 10**-0.5])
    assert power_propensity(position, 0.0).tolist() == [1, 1, 1, 1, 1]


def test_only_gains_are_weighted_and_weights_are_clipped():
    position = np.array([1, 2, 20, 5, 0, 3], dtype=np.int32)
    grade = np.array([1, 2, 1, 0, 1, UNKNOWN], dtype=np.int32)
    assert inverse_weights(position, grade, 1.0, 10.0).tolist() == [1, 2, 10, 1, 1, 1]
    assert inverse_weights(position, grade, 1.0, 10.0).dtype == np.float32


def columns(rows):
    shown = [(row["query"]["text"], item) for row in rows for item in row["items"]]
    pair = np.unique([query + item["id"] for query, item in shown], return_inverse=True)[1]
    position = np.array([item["position"] for _, item in shown], dtype=np.int32)
    return pair, position, np.array([item["outcome"] == "click" for _, item in shown], dtype=np.int32)


def log_likelihood(eta, pair, position, grade):
    """Written out: of each click, the chance that it fell on its position among all where that pair was shown."""
    total = 0.0
    for each in np.unique(pair):
        chance = position[pair == each].astype(float) ** -eta
        total += np.log(chance[grade[pair == each] > 0] / chance.sum()).sum()
    return total


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.3])
def test_the_estimate_is_the_maximum_of_the_likelihood_written_out(eta):
    data = columns(click_log(1, 400, eta, query_texts=("q", "r", "s")))
    best = minimize_scalar(lambda value: -log_likelihood(value, *data), bounds=(-2, 4), method="bounded")
    found, error = estimate_eta(*data)
    assert found == pytest.approx(best.x, abs=1e-4)
    step = 1e-3
    curvature = -sum(
        sign * log_likelihood(found + way * step, *data) for sign, way in ((1, 1), (-2, 0), (1, -1))
    ) / step**2  # fmt: skip
    assert error == pytest.approx(curvature**-0.5, rel=1e-2)


def test_the_estimate_is_right_and_its_error_covers():
    inside, estimates = 0, []
    for seed in range(40):
        eta, error = estimate_eta(*columns(click_log(seed, 600, 1.0)))
        estimates.append(eta)
        inside += abs(eta - 1.0) < 1.96 * error
    assert np.mean(estimates) == pytest.approx(1.0, abs=0.03)
    assert inside >= 35  # at 95% fewer come once in 40 such tests


def test_an_estimated_bias_is_corrected(tmp_path):
    rows = click_log(2, 6000, 0.9)
    known = click_rate(read(tmp_path, rows, propensity="power", eta=0.9))
    estimated = click_rate(read(tmp_path, rows, propensity="estimated"))
    assert estimated == pytest.approx(known, abs=0.04)


@pytest.mark.parametrize("least", [4, 5])
def test_a_bias_is_estimated_only_from_so_many_events_on_that_tell(tmp_path, least):
    rows = click_log(0, 40, 1.0)
    for row in rows[4:]:
        row["items"] = [item | {"outcome": None} for item in row["items"]]
    for row in rows[:4]:
        row["items"][0]["outcome"], row["items"][1]["outcome"] = "click", "skip"
    if least == 4:
        with pytest.raises(DataError, match=r"feedback\.propensity=estimated"):
            read(tmp_path, rows, least=least, propensity="estimated")
    else:
        assert read(tmp_path, rows, least=least, propensity="estimated").weight.tolist() == [1.0] * 320
    assert read(tmp_path, rows, least=least, propensity="power").weight.max() > 1


def test_outcomes_that_are_not_told_and_positions_that_are_not_logged_say_nothing():
    pair, position, grade = columns(click_log(3, 500, 0.7))
    more = (np.r_[pair, pair, pair], np.r_[position, position, np.zeros_like(position)],
            np.r_[grade, np.full_like(grade, UNKNOWN), grade])  # fmt: skip
    assert estimate_eta(*more) == estimate_eta(pair, position, grade)


@pytest.mark.parametrize("rows", [[], click_log(0, 4, 1.0), click_log(0, 1, 1.0)])
def test_too_little_is_refused(rows):
    pair, position, grade = columns(rows) if rows else (np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0))
    with pytest.raises(DataError, match=r"feedback\.propensity=estimated"):
        estimate_eta(pair, position, grade)


def test_clicks_at_the_first_position_alone_are_refused():
    pair, position = np.zeros(400, np.int64), np.tile([1, 2], 200).astype(np.int32)
    with pytest.raises(DataError, match=r"feedback\.propensity=estimated"):
        estimate_eta(pair, position, (position == 1).astype(np.int32))
