"""What a gate needs of a bundle: quality from its per-query values, latency measured here and now."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.export import machine_lock
from rankdistill.export.errors import UserError
from rankdistill.export.gate.absolute import absolute_estimates, of_loads
from rankdistill.export.gate.budget import Bound, Budget
from rankdistill.export.gate.decision import INCONCLUSIVE, Estimate, Missing, decide
from rankdistill.export.gate.estimates import Content, Found, quality_estimates
from rankdistill.export.graphs.graph_files import FP32 as TEACHER_GRAPH
from rankdistill.export.measure import paired_timing as duel_
from rankdistill.export.measure.paired_timing import Request, Times
from rankdistill.export.report import evaluation
from rankdistill.export.report.run_folders import RECORD, TRADEOFF, read_object
from rankdistill.export.runtime.manifest import EVALUATION, Manifest
from rankdistill.export.runtime.ranker import Ranker
from rankdistill.export.runtime.scorer import PairScorer
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.runtime.threads import available_cores

TEACHER_BATCH = 4  # pairs of equal length that share a call of the fp32 teacher: the fastest of those tried
MEMORY = """
import json, sys
from rankdistill.export.runtime.ranker import Ranker
spec = json.load(sys.stdin)
with Ranker.load(spec["bundle"], variant=spec["variant"]) as ranker:
    for query, items in spec["requests"]:
        ranker.score_items(query, items)
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")) / 1e6)
"""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Subject:
    """What is held to a budget, and what it is compared with.

    Attributes:
        bundle: its folder.
        variant: name of the graph that is gated.
        baseline: folder of the bundle it is compared with, None without one.
        teacher: folder with the teacher's tokenizer.json, its graph's file, and its max_length; None without one.
    """

    bundle: Path
    variant: str
    baseline: Path | None = None
    teacher: tuple[Path, Path, int] | None = None


def measure(subject: Subject, budget: Budget, requests: Sequence[Request], progress: Progress) -> Found:
    """Return what was measured of every metric that a budget bounds.

    Args:
        subject: what is held to it.
        budget: the bounds; only what they ask for is measured.
        requests: queries with their items, for latency and memory.
        progress: is told what is going on, and which share of it is done.

    Raises:
        UserError: if a bundle cannot be read.
    """
    wanted = {bound.metric.name: bound for bound in budget.bounds}
    found: Found = {}
    found |= _quality(subject, budget, wanted)
    found |= _size(subject, wanted)
    found |= _memory(subject, requests, wanted)
    absolute = [b for b in budget.bounds if b.metric.kind == "latency" and not b.metric.needs]
    if absolute:
        found |= _absolute(subject, budget, absolute, requests, progress)
    for rival in ("teacher", "baseline"):
        bounds = [b for b in budget.bounds if b.metric.kind == "latency" and b.metric.needs == rival]
        if bounds:
            found |= _against(subject, budget, bounds, rival, requests, progress)
    return found


def teacher_of(run: Path) -> tuple[Path, Path, int]:
    """Return a run's teacher: the folder with its tokenizer, its fp32 graph, its max_length.

    Raises:
        UserError: if the run does not have it any more, has no result, or is damaged.
    """
    record = read_object(run / RECORD)
    if not (run / TRADEOFF).exists():
        raise UserError(f"{run} has no {TRADEOFF}: it is {record.get('status', 'damaged')}; name a finished run")
    result = read_object(run / TRADEOFF)
    try:
        folders = [run / record["stages"].get(role, "-") for role in ("teacher", "teacher graphs")]
        max_length = int(result["config"]["teacher"]["max_length"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{run}: {RECORD} or {TRADEOFF} tells no teacher; name another run") from error
    graph = folders[1] / TEACHER_GRAPH
    if not graph.is_file():
        raise UserError(f"{run}: the teacher's graph is not there any more; give the run's command again")
    return folders[0], graph, max_length


def _quality(subject: Subject, budget: Budget, wanted: Mapping[str, Bound]) -> Found:
    names = [name for name, bound in wanted.items() if bound.metric.kind == "quality"]
    if not names:
        return {}
    content = evaluation.read(subject.bundle / EVALUATION)
    baseline = _served(subject.baseline) if subject.baseline else None
    manifest = Manifest.read(subject.bundle)
    chosen = manifest.variant(subject.variant)
    if "quality" not in chosen.measured:
        missing = Missing(
            f"quality was not measured of {chosen.name} but of {_measured(manifest)}; --variant names another graph"
        )
        return dict.fromkeys(names, missing)
    return quality_estimates(content, chosen.precision, names, budget.confidence, baseline)


def _served(baseline: Path) -> tuple[Content, str] | Missing:
    """Return what a baseline recorded, and the precision of the graph that it serves here, which is timed too."""
    content, manifest = evaluation.read(baseline / EVALUATION), Manifest.read(baseline)
    served = manifest.variant()
    if "quality" not in served.measured:
        return Missing(
            f"quality was not measured of {served.name}, which the baseline serves here, but of {_measured(manifest)}"
        )
    return content, served.precision


def _measured(manifest: Manifest) -> str:
    return ", ".join(variant.name for variant in manifest.variants if "quality" in variant.measured)


def _size(subject: Subject, wanted: Mapping[str, Bound]) -> Found:
    if "size_mb" not in wanted:
        return {}
    manifest = Manifest.read(subject.bundle)
    file = manifest.checked(manifest.variant(subject.variant).file)
    return {"size_mb": Estimate.exact(file.stat().st_size / 1e6)}


def _memory(subject: Subject, requests: Sequence[Request], wanted: Mapping[str, Bound]) -> Found:
    """Return the peak memory of a process that serves nothing but these requests."""
    if "peak_rss_mb" not in wanted:
        return {}
    if not Path("/proc/self/status").is_file():
        return {"peak_rss_mb": Missing("this system does not tell a process's peak memory")}
    spec = {"bundle": str(subject.bundle.resolve()), "variant": subject.variant, "requests": list(requests)}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], input=json.dumps(spec), text=True, capture_output=True, check=False
    )
    if done.returncode:
        return {"peak_rss_mb": Missing(f"the process that measures memory {_ending(done.returncode, done.stderr)}")}
    return {"peak_rss_mb": Estimate.exact(float(done.stdout))}


def _ending(code: int, said: str) -> str:
    """Return how a process ended, and its last words if there are any: one that is killed says nothing."""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return ": ".join([how, *said.strip().splitlines()[-1:]])


def _absolute(
    subject: Subject, budget: Budget, bounds: Sequence[Bound], requests: Sequence[Request], progress: Progress
) -> Found:
    """Time the ranker against itself: the turns of both rows are its own."""
    pairs = np.array([len(items) for _, items in requests])

    def estimates(times: Times, confidence: float) -> Found:
        return dict(absolute_estimates(times, pairs, confidence))

    own = _own(subject)
    return _duel(own, own, budget, bounds, requests, estimates, lambda share: progress("latency", share))


def _against(
    subject: Subject,
    budget: Budget,
    bounds: Sequence[Bound],
    rival: str,
    requests: Sequence[Request],
    progress: Progress,
) -> Found:
    """Time the ranker against the teacher or the baseline."""
    if getattr(subject, rival) is None:
        hint = "--baseline BUNDLE" if rival == "baseline" else "the run, or --teacher FOLDER"
        return {bound.metric.name: Missing(f"it needs {hint}") for bound in bounds}

    def told(share: float) -> None:
        progress(f"against the {rival}", share)

    return compare(_own(subject), lambda: _rival(subject, rival), budget, bounds, requests, told)


def compare(
    ranker: duel_.Open,
    rival: duel_.Open,
    budget: Budget,
    bounds: Sequence[Bound],
    requests: Sequence[Request],
    progress: Callable[[float], None],
) -> Found:
    """Time two rankers until bounds on their ratios are decided, or the budget's time is over.

    Args:
        ranker: loads the one in question.
        rival: loads teacher or baseline.
        budget: its confidence and time limit.
        bounds: on ratios.
        requests: queries with their items.
        progress: is told which share of the time is gone.
    """

    def estimates(times: Times, confidence: float) -> Found:
        ratios = {"cpu_ratio": times.ratios(times.cpu)}
        ratios["cpu_speedup_vs_teacher_onnx"] = 1 / ratios["cpu_ratio"]
        for name, percent in (("p50_ratio", 50), ("p95_ratio", 95)):
            ratios[name] = times.percentile_ratios(times.wall, percent)
        return {name: of_loads(*duel_.ratio_and_interval(each, confidence), times) for name, each in ratios.items()}

    return _duel(ranker, rival, budget, bounds, requests, estimates, progress)


class _Teacher:
    """The teacher's graph, run as the student's is."""

    def __init__(self, tokenizer: Path, graph: Path, max_length: int) -> None:
        encoder = PairEncoder.load(tokenizer, max_length)
        self._scorer = PairScorer(graph, encoder, available_cores(), TEACHER_BATCH)

    def score_items(self, query: str, items: Sequence[str]) -> Any:
        """Score a query's items."""
        return self._scorer.score(query, items)

    def __enter__(self) -> _Teacher:
        return self

    def __exit__(self, *_: object) -> None:
        self._scorer.close()


def _own(subject: Subject) -> duel_.Open:
    return lambda: Ranker.load(subject.bundle, variant=subject.variant, keep_mb=0)


def _rival(subject: Subject, rival: str) -> Ranker | _Teacher:
    if rival == "baseline":
        assert subject.baseline is not None
        return Ranker.load(subject.baseline, keep_mb=0)
    assert subject.teacher is not None
    return _Teacher(*subject.teacher)


def _duel(
    ranker: duel_.Open,
    rival: duel_.Open,
    budget: Budget,
    bounds: Sequence[Bound],
    requests: Sequence[Request],
    estimates: Callable[[Times, float], Found],
    progress: Callable[[float], None],
) -> Found:
    """Time until every bound is decided or the budget's time is over; returns the estimates of the last look."""
    last: list[Found] = []

    def decided(times: Times, look: int) -> bool:
        last[:] = [estimates(times, duel_.confidence_at(look, budget.confidence))]
        return all(decide(bound, _known(last[0][bound.metric.name])) != INCONCLUSIVE for bound in bounds)

    with machine_lock.alone():
        duel_.duel(ranker, rival, requests, seconds=budget.time_limit, decided=decided, progress=progress)
    return {bound.metric.name: last[0][bound.metric.name] for bound in bounds}


def _known(found: Estimate | Missing) -> Estimate:
    assert isinstance(found, Estimate)
    return found
