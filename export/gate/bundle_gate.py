"""A gate from end to end: find what is gated, measure what the budget asks for, judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankdistill.export.errors import UserError
from rankdistill.export.files import write_atomic
from rankdistill.export.gate.batch_invariance import measure_invariance
from rankdistill.export.gate.budget import Budget
from rankdistill.export.gate.decision import FAIL, INCONCLUSIVE, PASS, Estimate, Line, Missing, Verdict, judge
from rankdistill.export.gate.estimates import latency_estimates, quality_estimates, recommendation
from rankdistill.export.gate.measurements import Subject, measure, teacher_of
from rankdistill.export.gate.verdict_files import as_json
from rankdistill.export.measure.bench import golden_requests, read_requests
from rankdistill.export.measure.host import describe_host, versions
from rankdistill.export.report import evaluation
from rankdistill.export.report.recommendation import (
    NOT_RECOMMENDED,
    NOT_SHOWN,
    RECOMMENDED,
    Recommendation,
    served_student,
    unmeasured,
    worse,
)
from rankdistill.export.report.run_folders import is_sweep
from rankdistill.export.runtime.manifest import EVALUATION, MANIFEST, Manifest

LIBRARIES = ("rankdistill", "onnxruntime", "tokenizers", "numpy")
RUN, GATE = "run.json", "gate.json"
RECOMMENDATION = "recommendation"
UNTIMED = "not measured with measure.latency_queries=0; ranker gate BUNDLE --budget FILE measures it"


def gate(
    path: Path,
    budget_file: Path,
    *,
    baseline: Path | None,
    teacher: Path | None,
    requests: Path | None,
    items: int,
    variant: str | None,
    progress: Callable[[str, float], None],
) -> tuple[Verdict, dict[str, Any]]:
    """Hold a bundle to a budget.

    Args:
        path: a bundle, or a run's folder, which has one.
        budget_file: YAML file with the bounds.
        baseline: bundle, or run with one, that ratios and differences are against.
        teacher: run whose teacher is compared with; None for the run that the bundle lies in.
        requests: JSON Lines of requests; None for the bundle's golden texts.
        items: of a request made of golden texts.
        variant: graph that is gated; None for the one for this processor.
        progress: is told what is being measured, and which share of it is done.

    Returns:
        The verdict, and what else gate.json says.

    Raises:
        UserError: if anything that is given cannot be used.
    """
    budget = Budget.read(budget_file)
    bundle = _bundle(path)
    manifest = Manifest.read(bundle)
    chosen = manifest.variant(variant)
    if baseline is not None:
        baseline = _bundle(baseline)
        Manifest.read(baseline)
    run = teacher or (bundle.parent if (bundle.parent / RUN).is_file() else None)
    if teacher is not None and not (teacher / RUN).is_file():
        raise UserError(f"{teacher} is no run: it has no {RUN}")
    needs_teacher = any(bound.metric.needs == "teacher" for bound in budget.bounds)
    found = teacher_of(run) if run is not None and needs_teacher else None
    subject = Subject(bundle, chosen.name, baseline, found)
    asked = read_requests(requests) if requests else golden_requests(bundle, items)
    estimates = measure(subject, budget, asked, progress)
    about = {
        "bundle": str(bundle),
        "key": manifest.content["key"],
        "variant": chosen.name,
        "budget": str(budget_file),
        "baseline": str(baseline) if baseline else None,
        "requests": len(asked),
        "host": describe_host(),
        "versions": versions(LIBRARIES),
    }
    model = f"student {chosen.name}"
    verdict = recommendation_line(bundle_recommendation(manifest, chosen.precision, budget.confidence), budget, model)
    invariance = measure_invariance(bundle, chosen.name, asked)
    return judge(budget, estimates, model, [invariance.line(model)], [verdict]), about


def bundle_recommendation(manifest: Manifest, precision: str, confidence: float) -> Recommendation:
    """Return a bundle's verdict: decided anew from its per-query values, or what it carries where that is worse.

    So a bundle from before there were verdicts has one too, and none passes on what only its manifest claims.

    Args:
        manifest: of the bundle.
        precision: of the graph that is judged.
        confidence: of the intervals.

    Raises:
        UserError: if the per-query values are damaged or gone.
    """
    rows = [row for row in manifest.content["quality"] if isinstance(row, dict) and "model" in row]
    served = served_student(rows)
    carried = None  # a verdict is of the graph that is served by itself; another is judged by its own values
    if served is None or served.get("precision") == precision:
        carried = Recommendation.of(manifest.content.get("verdict"))
    if EVALUATION not in manifest.content["files"]:
        nothing = unmeasured(f"the bundle has no {EVALUATION}")
        return nothing if carried is None else worse(carried, nothing)
    found = recommendation(evaluation.read(manifest.folder / EVALUATION), precision, confidence)
    return found if carried is None else worse(found, carried)


def recommendation_line(found: Recommendation, budget: Budget, model: str) -> Line:
    """Return a gate's first line: whether the verdict is one that the budget takes.

    Args:
        found: the verdict.
        budget: which says what it takes beside "recommended".
        model: what is judged.
    """
    taken = [RECOMMENDED]
    if budget.allow:
        taken += [NOT_SHOWN, *([NOT_RECOMMENDED] if NOT_RECOMMENDED in budget.allow else [])]
    verdict = PASS if found.status in taken else INCONCLUSIVE if found.status == NOT_SHOWN else FAIL
    note = (
        found.sentence if verdict != PASS or found.status == RECOMMENDED else f"{found.sentence}; the budget allows it"
    )
    low, high = found.interval or (None, None)
    bound = f"{RECOMMENDATION}: {' or '.join(taken)}"
    return Line(RECOMMENDATION, model, bound, 0.0, verdict, found.difference, low, high, note)


def _bundle(path: Path) -> Path:
    """Return the bundle that a path means: itself, or a run's.

    Raises:
        UserError: if there is none, saying how to have one.
    """
    bundle = path / "bundle" if (path / RUN).is_file() else path
    if (bundle / MANIFEST).is_file():
        return bundle
    if (path / RUN).is_file():
        raise UserError(f"{path} keeps no bundle; ranker bundle {path} -o DIR makes one")
    if is_sweep(path):
        raise UserError(f"{path} is a sweep; give one of its runs")
    raise UserError(f"{path} is neither a bundle nor a run with one")


def judge_run(run: Path, budget: Budget) -> dict[str, Any]:
    """Hold a run to a budget by what it measured itself, and write its gate.json.

    Args:
        run: folder of a finished run with its bundle.
        budget: the bounds; those against a baseline are unusable here.

    Returns:
        The content of gate.json.
    """
    bundle = run / "bundle"
    manifest = Manifest.read(bundle)
    chosen = manifest.variant()
    content = evaluation.read(bundle / EVALUATION)
    names = [bound.metric.name for bound in budget.bounds if bound.metric.kind == "quality"]
    found = quality_estimates(content, chosen.precision, names, budget.confidence, None)
    found |= latency_estimates(content, chosen.precision, budget.confidence)
    of = ("student", "onnxruntime")  # what the bundle is served with
    rows = [row for row in manifest.content["quality"] if (row["model"], row["engine"]) == of]
    row = next(row for row in rows if row["precision"] == chosen.precision)
    found["size_mb"] = Estimate.exact(row["size_mb"])
    found |= {name: Estimate.exact(row[name]) for name in ("peak_rss_mb", "pairs_per_s") if row[name] is not None}
    if not content.get("timed_queries"):
        asked = (bound.metric for bound in budget.bounds if bound.metric.needs != "baseline")
        found |= {
            metric.name: Missing(UNTIMED, INCONCLUSIVE) for metric in asked if metric.kind in ("latency", "memory")
        }
    model = f"student {chosen.name}"
    first = recommendation_line(bundle_recommendation(manifest, chosen.precision, budget.confidence), budget, model)
    verdict = judge(budget, found, model, first=[first])
    text = as_json(verdict, {"bundle": "bundle", "key": manifest.content["key"], "variant": chosen.name})
    write_atomic(run / GATE, text)
    return dict(json.loads(text))
