"""Models of the drift laboratory: a student distilled anew from lists, and updated ones; with the CPU time of each.

A model stands in a folder named by a hash of all that it is made of, so that a stopped laboratory goes on, and streams
that begin alike share what is alike.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from rankdistill.data.records import Float32
from rankdistill.data.scored_pairs import Lessons
from rankdistill.data.tokens import PairTokens
from rankdistill.export.progress import Progress
from rankdistill.export.runtime.text.tokens import PairEncoder
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.models import model_files, student, teacher
from rankdistill.online.candidate import Clock, Learning
from rankdistill.online.candidate_bundle import save_checkpoint
from rankdistill.online.events.labelled_lists import Shown, tokenise
from rankdistill.online.events.seen_ids import SeenEvents
from rankdistill.online.origin import Origin
from rankdistill.online.replay import Old
from rankdistill.online.version_state import State
from rankdistill.online.versions import Version
from rankdistill.options import Config, EncoderTeacher, Updating
from rankdistill.training import scoring as scores
from rankdistill.training.device import Device

DEV = 50  # lists that choose a teacher's best evaluation
COST, DONE = "cost.json", "done.json"


@dataclass(frozen=True)
class Distilled:
    """A student made anew, with the teacher's scores of what it learned from.

    Attributes:
        key: of all that it is made of.
        folder: of its checkpoint.
        pairs: it was trained on.
        scores: the teacher's logits of them, float32 [pairs].
        cost: CPU seconds of the parts.
    """

    key: str
    folder: Path
    pairs: PairTokens
    scores: Float32
    cost: dict[str, float]


def key_of(*parts: object) -> str:
    """Return a hash of what something is made of."""
    text = json.dumps(parts, default=str, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of_lists(lists: Sequence[Shown]) -> str:
    """Return a hash of lists."""
    return key_of([asdict(each) for each in lists])


def distil(lists: Sequence[Shown], config: Config, work: Path) -> Distilled:
    """Tune a teacher on the labels of all lists, score them, and distil a student: the pipeline's own steps.

    Args:
        lists: all to date; some, drawn at random, choose the teacher's best evaluation and are not trained on.
        config: a run's options.
        work: folder of the laboratory.
    """
    tuned = config.teacher
    assert isinstance(tuned, EncoderTeacher)
    begin = model_files.locate_model(config.teacher.model, config.teacher.sha256)
    encoder = PairEncoder.load(begin, config.teacher.max_length)
    apart = set(np.random.default_rng(config.seed).choice(len(lists), size=DEV, replace=False).tolist())
    pairs, dev = (
        tokenise([each for row, each in enumerate(lists) if (row in apart) == chosen], encoder, str).pairs
        for chosen in (False, True)
    )
    taught = key_of(key_of_lists(lists), asdict(config.teacher), asdict(config.train), config.seed)
    cost = {}

    def tune(out: Path) -> None:
        teacher.write_tuned(begin, pairs, dev, tuned, config.train, config.seed, out)

    theirs, cost["teacher"] = _made(work / "teachers" / taught, tune)
    device = Device.resolve(config.train)

    def score_pairs(out: Path) -> None:
        model = load_ranker(str(theirs), cls_only=True, attention=device.attention)
        scores.write(model, pairs, out, what="scores", batch_size=config.train.score_batch, bf16=device.bf16)

    scored, cost["scores"] = _made(work / "scores" / taught, score_pairs)
    lessons = Lessons(pairs, scores.read(scored), scores.scale(scored))
    layers = student.choose_layers(config.student.layers, int(model_files.read_config(theirs)["num_hidden_layers"]))

    def learn(out: Path) -> None:
        (out / "bundle").mkdir()
        student.write(
            theirs, lessons, dev, layers=layers, student=config.student, terms=config.loss.terms,
            train=config.train, seed=config.seed, rivals=None, out=out / "bundle",
        )  # fmt: skip

    key = key_of(taught, asdict(config.student), asdict(config.loss))
    folder, cost["student"] = _made(work / "students" / key, learn)
    return Distilled(key, folder / "bundle", pairs, lessons.scores, cost)


def score(folder: Path, key: str, lists: Sequence[Shown], config: Config, work: Path) -> Float32:
    """Return a model's raw logits of lists, float32 [pairs]; kept under the model's key."""
    path = work / "predictions" / f"{key}-{key_of_lists(lists)}.npy"
    if not path.is_file():
        device = Device.resolve(config.train)
        pairs = tokenise(lists, PairEncoder.load(folder, config.student.max_length), str).pairs
        model = load_ranker(str(folder), cls_only=True, attention=device.attention)
        with Progress("score", len(pairs), "pairs") as bar:
            size = config.train.score_batch
            rows = np.arange(len(pairs))
            found = scores.score_rows(model, pairs, rows, batch_size=size, bf16=False, bar=bar)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half.npy")
        np.save(half, found)
        half.replace(path)
    return np.asarray(np.load(path), dtype=np.float32)


class Updated:
    """A student that goes from slice to slice by the updates of `distill-update`, without export and publishing.

    Args:
        first: the student that is served at first; its training pairs are those that updates are reminded of.
        test: the old test set.
        options: of `distill-update`.
        config: of the first student.
        work: folder of the laboratory.
    """

    def __init__(self, first: Distilled, test: Sequence[Shown], options: Updating, config: Config, work: Path) -> None:
        self.options, self.config, self.work = options, config, work
        self.key, self.folder, self.number = first.key, first.folder, 0
        encoder = PairEncoder.load(first.folder, config.student.max_length)
        pairs = tokenise(test, encoder, str).pairs
        none = np.zeros(len(pairs), dtype=np.float32)
        old = Old(first.folder, first.folder, first.pairs, first.scores, pairs, none, 1, "")
        self._origin = Origin(first.folder, None, cast(Any, None), encoder, None, config, old)
        self._seen = SeenEvents(1)
        self._state = State(None, self._seen, test=score(first.folder, first.key, test, config, work))

    @property
    def test_scores(self) -> Float32:
        """Raw logits of the old test set by the student that is served now, float32 [pairs]."""
        assert self._state.test is not None
        return self._state.test

    def learn(self, lists: Sequence[Shown]) -> dict[str, Any]:
        """Learn from a slice, and return what it cost and what the checks say."""
        key = key_of(self.key, key_of_lists(lists), asdict(self.options))
        folder = self.work / "updates" / key

        def update(out: Path) -> None:
            begin = time.process_time()
            version = Version(self.number, self.folder.parent, {})
            making = Learning(self.options, self._origin, version, self._state, lists, out, Clock())
            making.learn()
            trained = time.process_time()
            checks = making.judge()
            checked = time.process_time()
            save_checkpoint(making.model.cpu(), self.folder, out / "bundle")
            memory = [*self._state.memory, *making.learned][-self.options.update.memory :]
            after = State(None, self._seen, making.newest, memory, making.moments, making.test_after)
            after.save(out / "state")
            making.leave_out()
            told = {
                "cpu_s": trained - begin, "check_cpu_s": checked - trained, "optimizer": making.optimizer,
                "trained": len(making.learned), "pairs": len(making.trained_pairs), "reminded": making.reminded,
                "refused_by": [check.name for check in checks if not check.ok],
            }  # fmt: skip
            (out / COST).write_text(json.dumps(told) + "\n", encoding="utf-8")

        _made(folder, update)
        self.key, self.folder, self.number = key, folder / "bundle", self.number + 1
        self._state = replace(State.load(folder / "state"), seen=self._seen)
        return cast(dict[str, Any], json.loads((folder / COST).read_text(encoding="utf-8")))


def _made(folder: Path, build: Callable[[Path], None]) -> tuple[Path, float]:
    """Return a finished folder and the CPU seconds it took; what was stopped half-way is begun anew."""
    done = folder / DONE
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begin = time.process_time()
        build(folder)
        seconds = time.process_time() - begin
        for left in [*folder.glob("**/checkpoints")]:
            shutil.rmtree(left)
        done.write_text(json.dumps({"cpu_s": seconds}) + "\n", encoding="utf-8")
    return folder, float(json.loads(done.read_text(encoding="utf-8"))["cpu_s"])
