"""A student on its way from one version to the next: trained on events, compared with the served one, exported."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rankdistill.data.records import UNKNOWN, Float32, Int64, Split
from rankdistill.data.tokens import PairTokens
from rankdistill.export.bundle.successor import Measured
from rankdistill.export.measure.quality import ranking_metrics
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.event_log import Cursor
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.online import candidate_bundle
from rankdistill.online import checks as checks_
from rankdistill.online.checks import Check
from rankdistill.online.events.feedback import Feedback
from rankdistill.online.events.labelled_lists import Shown, cut_newest, tokenise, told
from rankdistill.online.federated_averaging import train_on
from rankdistill.online.label_check import label_check
from rankdistill.online.origin import Origin
from rankdistill.online.replay import joined, rows_of
from rankdistill.online.update_trainer import Lessons, load_state, save_state
from rankdistill.online.version_state import State
from rankdistill.online.versions import UPDATE, Version
from rankdistill.options import Updating
from rankdistill.training.device import Device
from rankdistill.training.scoring import score_rows


class Clock:
    """Seconds of the steps, one after the other, by the wall and of this process's CPU time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    def lap(self, step: str) -> None:
        """Note that a step has ended."""
        now, cpu = time.perf_counter(), time.process_time()
        self.seconds[step] = round(self.seconds.get(step, 0.0) + now - self._last, 2)
        self.cpu[step] = round(self.cpu.get(step, 0.0) + cpu - self._last_cpu, 2)
        self._last, self._last_cpu = now, cpu


class Learning:
    """An updated student on its way to a version.

    Args:
        config: the validated options.
        origin: of the first version.
        served: the version that is updated.
        state: that stands beside it.
        fresh: lists of the new events.
        work: folder of the version to be.
        clock: is told when a step has ended.
        threads: of torch; None for every core.
    """

    def __init__(
        self,
        config: Updating,
        origin: Origin,
        served: Version,
        state: State,
        fresh: Sequence[Shown],
        work: Path,
        clock: Clock,
        threads: int | None = None,
    ) -> None:
        self.config, self.origin, self.served, self.state = config, origin, served, state
        self.work, self.clock = work, clock
        self.device = Device.resolve(config.train)
        if threads is not None:
            torch.set_num_threads(threads)
        self.seed = config.seed + served.number
        self.older, self.newest = cut_newest(fresh, config.update.holdout)
        self.learned = [*state.held, *self.older]
        self.tokens = tokenise([*self.learned, *self.newest], origin.encoder, origin.shorten)
        self.model = load_ranker(str(served.bundle), cls_only=True, attention=self.device.attention)
        self.model.to(self.device.name)
        clock.lap("load")
        self.before = self._score(self.tokens.pairs)
        self.test_before = self._test_scores()
        clock.lap("score with the served student")

    def label_check(self) -> Check:
        """Compare the new events' outcomes with the served student's order, before anything is learned from them."""
        old, accuracy = self.origin.old, None
        if old is not None and self.test_before is not None:
            accuracy = _accuracy(old.test.split, self.test_before)
        fresh = np.arange(len(self.state.held), len(self.learned) + len(self.newest))
        pairs, rows = self._part(fresh)
        split, kept = told(pairs.split)
        users = [each.user for each in [*self.older, *self.newest]]
        return label_check(split, self.before[rows][kept], users, accuracy, self.config.update)

    def learn(self) -> None:
        """Train on the events, old lists and the served scores."""
        pairs, known, owner, self.reminded = self._lessons()
        update, kind = self.config.update, self.config.update.kind
        kept = update.optimizer == "keep" and self.state.moments is not None
        moments = load_state(self.state.moments, kind) if kept and self.state.moments is not None else {}
        self.clock.lap("prepare")
        freeze = self.config.train.freeze_embeddings is not False
        lessons = Lessons(pairs, known, owner)
        moments, self.optimizer = train_on(
            self.model, lessons, moments, update=update, train=self.config.train, device=self.device,
            freeze_embeddings=freeze, seed=self.seed, work=self.work,
        )  # fmt: skip
        self.moments = None
        if update.optimizer == "keep":
            self.moments = self.work / "moments.safetensors"
            save_state(moments, kind, self.moments)
        self.trained_pairs = pairs
        self.clock.lap("train")

    def judge(self) -> list[Check]:
        """Compare the updated student with the served one on what neither was trained on."""
        update, old = self.config.update, self.origin.old
        held = len(self.learned)
        newest, rows = self._part(np.arange(held, held + len(self.newest)))
        after = self._score(newest)
        split, kept = told(newest.split)
        self.newest_pairs, self.newest_scores = newest, after
        finite = all(bool(torch.isfinite(p).all()) for p in self.model.parameters())
        scores = {"scores of events": after}
        self.test_after = None
        if old is not None and self.test_before is not None:
            self.test_after = self._score(old.test)
            scores["scores of the old test set"] = self.test_after
        self.clock.lap("score with the updated student")
        found = [checks_.finite_check(finite, **scores)]
        if checks_.refusals(found):
            return found
        found.append(checks_.newest_check(split, self.before[rows][kept], after[kept], update, self.seed))
        if old is not None and self.test_before is not None and self.test_after is not None:
            first = self._first()
            found.append(
                checks_.forgetting_check(old.test.split, first, self.test_before, self.test_after, update)
            )  # fmt: skip
        self.clock.lap("check")
        return found

    def export(self, number: int, feedback: Feedback, found: Sequence[Check], cue: str) -> list[Check]:
        """Write graphs and bundle of the updated student."""
        checkpoint, graphs, old = self.work / "checkpoint", self.work / "graphs", self.origin.old
        candidate_bundle.save_checkpoint(self.model.cpu(), self.served.bundle, checkpoint)
        candidate_bundle.make_graphs(self.origin, checkpoint, self.trained_pairs, self.seed, graphs)
        self.clock.lap("graphs")
        pairs, exact = self.newest_pairs, self.newest_scores
        if old is not None and self.test_after is not None:
            pairs, exact = old.test, self.test_after
        threads = torch.get_num_threads()
        eight, scores = candidate_bundle.compare_eight_bits(graphs, pairs, exact, self.config.update, threads)
        self.clock.lap("measure 8 bits")
        measured = None
        if old is not None and self.test_after is not None:
            split = old.test.split
            scores = {"fp32": self.test_after} | scores
            measured = Measured(scores, old.reference, split.grade, split.offsets, old.relevant)
        about = self.record(feedback, [*found, *eight], cue) | {"version": number}
        bundle = candidate_bundle.write_bundle(
            self.served.bundle, checkpoint, graphs, about, measured, self.config.update.sign, self.work / "bundle"
        )
        self.clock.lap("bundle")
        return [*eight, bundle]

    def state_after(self, feedback: Feedback) -> State:
        """Return what the next update goes on with."""
        most = self.config.update.memory
        memory = [*self.state.memory, *self.learned]
        memory = memory[max(0, len(memory) - most) :]
        first = self._first() if self.test_before is not None else None
        return State(feedback.cursor, feedback.seen, self.newest, memory, self.moments, self.test_after, first)

    def record(self, feedback: Feedback, found: Sequence[Check], cue: str) -> dict[str, Any]:
        """Return what a version and its bundle say of the update."""
        update = self.config.update
        return {
            "kind": UPDATE,
            "change": update.kind,
            "parent": self.served.number,
            "parent_key": str(Manifest.read(self.served.bundle).content["key"]),
            "cue": cue,
            "trained": len(self.learned),
            "held": len(self.newest),
            "reminded": self.reminded,
            "optimizer": self.optimizer,
            "events": consumed(self.state.cursor, feedback),
            "checks": dict(checks_.as_table(found)),
            "options": asdict(update),
            "seconds": dict(self.clock.seconds),
            "cpu_seconds": dict(self.clock.cpu),
        }

    def leave_out(self) -> None:
        """Delete what is no part of the version."""
        for name in ("checkpoint", "graphs", "trainer"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        if self.moments is not None:
            self.moments.unlink()

    def _lessons(self) -> tuple[PairTokens, dict[str, Float32], Int64, dict[str, int]]:
        """Return pairs to train on, what the loss needs of each, and how many old lists are among them."""
        update, rng = self.config.update, np.random.default_rng(self.seed)
        own, rows = self._part(np.arange(len(self.learned)))
        count = round(update.replay_lists * len(self.learned))
        old, memory = self.origin.old, self.state.memory
        from_memory = min(len(memory), count if old is None else count // 2)
        parts, served, weight = [own], [self.before[rows]], [self.tokens.weight[rows]]
        who = [each.user or each.query for each in self.learned]
        if from_memory:
            drawn = np.sort(rng.choice(len(memory), size=from_memory, replace=False))
            again = tokenise([memory[row] for row in drawn], self.origin.encoder, self.origin.shorten)
            parts.append(again.pairs)
            who += [memory[row].user or memory[row].query for row in drawn]
            served.append(self._score(again.pairs))
            weight.append(again.weight)
        teacher = [np.zeros(sum(map(len, parts)), dtype=np.float32)]
        taught = [np.zeros_like(teacher[0])]
        from_run = 0
        if old is not None and count > from_memory:
            size = -(-len(own) // max(1, len(self.learned)))  # so that a list reminds of no more than another teaches
            pairs, scores = old.sample(count - from_memory, rng, size)
            parts.append(pairs)
            served.append(self._score(pairs))
            weight.append(np.ones(len(pairs), dtype=np.float32))
            teacher.append(scores)
            taught.append(np.ones(len(pairs), dtype=np.float32))
            from_run = len(pairs.split.query)
        whole = joined(parts)
        known = {
            "grades": whole.split.grade.astype(np.float32),
            "propensity": np.concatenate(weight),
            "teacher": np.concatenate(teacher),
            "taught": np.concatenate(taught),
            "served": np.concatenate(served),
        }
        # groups are dealt by grade: what nobody judged stands with what was not liked
        split = replace(whole.split, grade=np.where(whole.split.grade == UNKNOWN, 0, whole.split.grade))
        pairs_ = PairTokens(split, whole.table, whole.encoder)
        who += [f"old {row}" for row in range(from_run)]
        owner = np.unique(np.array(who), return_inverse=True)[1].astype(np.int64)
        return pairs_, known, owner, {"from_run": from_run, "from_memory": from_memory}

    def _part(self, lists: Int64) -> tuple[PairTokens, Int64]:
        pairs = self.tokens.pairs
        return PairTokens(pairs.split.take(lists), pairs.table, pairs.encoder), rows_of(pairs.split, lists)

    def _score(self, pairs: PairTokens) -> Float32:
        """Score in fp32, which the served scores are compared in."""
        with Progress("score", len(pairs), "pairs") as bar:
            size = self.config.train.score_batch
            return score_rows(self.model, pairs, np.arange(len(pairs)), batch_size=size, bf16=False, bar=bar)

    def _test_scores(self) -> Float32 | None:
        """Return the served student's scores of the old test set: kept with it, measured by its run, or made now."""
        old, scores = self.origin.old, self.state.test
        if old is not None and scores is None and old.student is not None:
            keys = [Manifest.read(folder).content["key"] for folder in (self.served.bundle, self.origin.bundle)]
            scores = old.student if keys[0] == keys[1] else None
        return self._score(old.test) if old is not None and scores is None else scores

    def _first(self) -> float:
        assert self.test_before is not None
        assert self.origin.old is not None
        if self.state.first is not None:
            return self.state.first
        return float(checks_.ndcg(self.test_before, self.origin.old.test.split).mean())


def consumed(before: Cursor | None, feedback: Feedback) -> dict[str, Any]:
    """Return which events of the log a reading took, and what became of them."""
    ends = {"after": before, "to": feedback.cursor}
    return {name: None if end is None else end.place() for name, end in ends.items()} | asdict(feedback.counts)


def _accuracy(split: Split, scores: Float32) -> float:
    return float(np.nanmean(ranking_metrics(scores, split.grade, split.offsets)["pair_accuracy"]))
