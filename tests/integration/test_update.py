"""Updates whole, on the tiny run: published, gone on with, gone back from, and refused with the served one in place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rankdistill import Ranker
from rankdistill.commands.update import run
from rankdistill.export.bundle.verification import verify
from rankdistill.export.runtime.manifest import Manifest
from rankdistill.export.torch_models.checkpoint import load_ranker
from rankdistill.online.version_state import State
from rankdistill.online.versions import Published
from tests.event_rows import append, append_lines, flipped, make_events, nan_rating

pytestmark = pytest.mark.integration

# six test queries forget and lose by chance
LOOSE = ["update.max_forgetting=0.3", "update.max_int8_drop=0.3", "update.resamples=200"]


@pytest.fixture(scope="module")
def tiny_run(bundle) -> Path:
    return bundle.parent


def command(*arguments, cwd):
    code = "from rankdistill.__main__ import update; update()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=cwd, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


class Folder:
    """A log, a folder of versions, and the command that is given for them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.log, self.published, self.model = folder / "log", Published(folder / "published"), model

    def update(self, *more) -> int:
        paths = [f"events='{self.log}'", f"published='{self.published.folder}'"]
        return run([str(self.model), *paths, "update=head", *LOOSE, *more])

    def numbers(self):
        return [version.number for version in self.published.all()]


@pytest.fixture
def folder(tmp_path, tiny_run) -> Folder:
    return Folder(tmp_path, tiny_run)


def scores(bundle: Path, variant: str = "fp32"):
    pairs = [
        ("red fast small new chair", text) for text in ("red fast lamp", "cold loud soft tent", "new small red cup")
    ]
    with Ranker.load(str(bundle), variant=variant) as ranker:
        return ranker.score(pairs)


def test_an_update_is_published_whole(folder, tiny_run):
    append(folder.log, make_events(120))
    assert folder.update("seed=3") == 0
    current = folder.published.current()
    assert (current.number, folder.numbers()) == (1, [0, 1])
    assert all(line.ok for line in verify(current.bundle))
    checks = {"one user", "broken events", "labels", "finite", "newest events", "forgetting", "int8", "bundle"}
    assert set(current.record["checks"]) == checks
    assert (current.record["trained"], current.record["held"], current.record["parent"]) == (96, 24, 0)
    assert current.record["events"]["used"] == 120
    assert current.record["reminded"] == {"from_run": 12, "from_memory": 0}  # all that train has

    table = [row for row in Manifest.read(tiny_run / "bundle").content["quality"] if row["model"] == "student"]
    told = {f"{row['ndcg@10']:.4f}" for row in table if row["engine"] == "onnxruntime" and row["precision"] == "fp32"}
    assert current.record["checks"]["forgetting"]["detail"].split("test set ")[1].split(" ")[0] in told

    manifest, first = Manifest.read(current.bundle), Manifest.read(tiny_run / "bundle")
    assert manifest.content["update"]["version"] == 1
    assert manifest.content["update"]["parent_key"] == first.content["key"] != manifest.content["key"]
    card = (current.bundle / "README.md").read_text()
    assert "## Updated" in card
    verdict = manifest.content["verdict"]
    assert verdict["status"] == first.content["verdict"]["status"] == "recommended"
    assert card.count(f"**R{verdict['sentence'][1:]}.**") == card.count("**Recommended") == 1
    served = next(row for row in manifest.content["quality"][::-1] if row["model"] == "student")
    assert f"has nDCG@10 {served['ndcg@10']:.3f}" in verdict["sentence"]  # of the new weights
    before, after = scores(tiny_run / "bundle"), scores(current.bundle)
    assert np.abs(before - after).max() > 1e-4
    model = load_ranker(str(current.bundle), cls_only=True, attention="eager")
    old = load_ranker(str(tiny_run / "bundle"), cls_only=True, attention="eager")
    found = {n for n, p in model.named_parameters() if not torch.equal(p, dict(old.named_parameters())[n])}
    assert found
    assert all(name.startswith(("bert.pooler", "classifier")) for name in found)

    state = State.load(current.state)
    assert (len(state.held), len(state.memory), len(state.seen)) == (24, 96, 120)
    rows = [row for row in manifest.content["quality"] if row["model"] == "student" and row["precision"] == "fp32"]
    assert [round(row["ndcg@10"], 4) for row in rows] == [
        round(float(np.mean(_ndcg_of(current.bundle))), 4)
    ]  # what the evaluation of the bundle holds is what its table tells


def _ndcg_of(bundle):
    from rankdistill.export.report import evaluation

    models = evaluation.read(bundle / "evaluation.json.gz")["models"]
    return next(m for m in models if m["model"] == "student" and m["precision"] == "fp32")["quality"]["ndcg@10"]


def test_the_next_update_goes_on(folder):
    append(folder.log, make_events(60))
    assert folder.update() == 0
    assert folder.update() == 0  # nothing new: nothing is done
    assert folder.numbers() == [0, 1]
    append(folder.log, [*make_events(40, first=60, seed=1), *make_events(5)])  # five are sent again
    assert folder.update() == 0
    current = folder.published.current()
    assert current.number == 2
    assert current.record["optimizer"] == "kept"
    assert (current.record["events"]["used"], current.record["events"]["duplicates"]) == (40, 5)
    assert current.record["trained"] == 12 + 32  # what was held back for the check before, and the older part
    assert current.record["reminded"]["from_memory"] > 0
    state = State.load(current.state)
    used = [each.id for each in [*state.memory, *state.held]]
    assert sorted(used) == sorted(f"e{number}" for number in range(100))


def test_going_back_and_forth(folder, capsys):
    for first in (0, 40):
        append(folder.log, make_events(40, first=first, seed=first))
        assert folder.update() == 0
    second = scores(folder.published.current().bundle)
    assert run([str(folder.model), f"published={folder.published.folder}", "--rollback"]) == 0
    assert folder.numbers() == [0, 1, 2, 3]
    assert scores(folder.published.current().bundle).tolist() == scores(folder.published.find(1).bundle).tolist()
    assert scores(folder.published.current().bundle).tolist() != second.tolist()
    assert folder.update() == 0  # its events stay consumed
    assert folder.numbers() == [0, 1, 2, 3]
    assert run([str(folder.model), f"published={folder.published.folder}", "--rollback", "2"]) == 0
    assert scores(folder.published.current().bundle).tolist() == second.tolist()
    append(folder.log, make_events(40, first=80, seed=9))
    assert folder.update() == 0
    assert folder.published.current().record["parent"] == 4
    capsys.readouterr()
    assert run([str(folder.model), f"published={folder.published.folder}", "--versions"]) == 0
    told = capsys.readouterr().out
    assert [word in told for word in ("5 served", "rollback", "first", "update")] == [True] * 4
    assert run([str(folder.model), f"published={folder.published.folder}", "--prune", "keep=1"]) == 0
    assert folder.numbers() == [4, 5]


@pytest.mark.parametrize("kind", ["top_k_layers", "lora", "all"])
def test_every_kind_is_published(folder, kind):
    append(folder.log, make_events(60))
    assert folder.update(f"update={kind}") == 0
    current = folder.published.current()
    assert (current.number, current.record["change"]) == (1, kind)
    assert all(line.ok for line in verify(current.bundle))


def test_a_bundle_alone_is_enough(folder, tiny_run, tmp_path, capsys):
    folder.model = tmp_path / "alone"
    shutil.copytree(tiny_run / "bundle", folder.model)
    append(folder.log, make_events(80))
    assert folder.update() == 0
    assert "no run beside the bundle" in capsys.readouterr().out
    current = folder.published.current()
    assert current.record["reminded"] == {"from_run": 0, "from_memory": 0}
    assert "forgetting" not in current.record["checks"]
    assert all(line.ok for line in verify(current.bundle))


def flipped_slice():
    events = make_events(200)
    return [flipped(event) if 60 <= number < 100 else event for number, event in enumerate(events)]


def one_loud_user():
    return [event | ({"user": "loud"} if number % 2 else {}) for number, event in enumerate(make_events(100))]


@pytest.mark.parametrize(
    ("events", "check"), [(flipped_slice, "labels"), (one_loud_user, "one user")], ids=["flipped", "loud"]
)
def test_poisoned_events_are_refused(folder, capsys, events, check):
    append(folder.log, make_events(60, first=10_000, seed=5))
    for event in (poisoned := events()):
        event["time"] += 10_000_000  # behind the sound ones
    assert folder.update() == 0
    served = folder.published.current()
    held = scores(served.bundle).tolist()
    append(folder.log, poisoned)
    for times in (1, 2):
        capsys.readouterr()
        assert folder.update() == 1
        told = capsys.readouterr().out
        assert f"refused: {check}: " in told
        assert f"not published: {check} ({times} of 3 times" in told
        assert folder.published.current().number == served.number
        assert scores(folder.published.folder / "current").tolist() == held
    assert folder.update() == 1
    assert "its events are set aside" in capsys.readouterr().out
    aside = folder.published.current()
    assert (aside.number, aside.record["kind"]) == (served.number + 1, "set aside")
    assert scores(aside.bundle).tolist() == held
    assert State.load(aside.state).held == State.load(served.state).held
    append(folder.log, [event | {"time": event["time"] + 2e7} for event in make_events(60, first=20_000, seed=6)])
    assert folder.update() == 0  # sound ones are learned from again
    assert folder.published.current().record["parent"] == aside.number


def test_ratings_that_are_no_numbers_are_refused(folder, capsys):
    events = make_events(100)
    append(folder.log, events[:90])
    append_lines(folder.log, [nan_rating(event) for event in events[90:]])
    assert folder.update() == 1
    assert "refused: broken events: 10 of 100 events are broken, at most 5%" in capsys.readouterr().out
    assert folder.published.current().number == 0


def test_a_few_broken_lines_are_set_aside_and_counted(folder):
    append(folder.log, make_events(100))
    append_lines(folder.log, [nan_rating(make_events(1, first=500)[0]), "{half"])
    append(folder.log, make_events(20, first=100))
    assert folder.update() == 0
    current = folder.published.current()
    assert (current.record["events"]["broken"], current.record["events"]["used"]) == (2, 120)
    lines = (current.state / "broken.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"].split(":")[0] for line in lines] == ["no JSON", "no JSON"]


def test_what_is_forgotten_is_refused(folder, capsys):
    append(folder.log, make_events(100, good=["old", "slow", "dark", "cold", "heavy", "loud", "quiet", "hard"]))
    forgetful = ["update.learning_rate=0.05", "update.epochs=5", "update.anchor=0", "update.replay=0"]
    blind = ["update.min_agreement=0", "update.max_forgetting=0"]
    assert folder.update(*forgetful, *blind) == 1
    assert "not published: " in capsys.readouterr().out
    refused = json.loads((folder.published.folder / "refused.json").read_text())
    assert "forgetting" in [check["name"] for check in refused["checks"] if not check["ok"]]
    assert folder.published.current().number == 0


def test_two_workers_publish_one_update(folder):
    pytest.importorskip("ray")
    append(folder.log, make_events(60))
    assert folder.update("update.workers=2", "update.optimizer=new") == 0
    current = folder.published.current()
    assert (current.number, current.record["optimizer"]) == (1, "new")
    assert all(line.ok for line in verify(current.bundle))


def said(done):
    """Lines on stderr, but that it waited for a test beside it that measures latency."""
    return [line for line in done.stderr.splitlines() if not line.startswith("waiting: another process measures")]


def test_exit_codes_through_a_process(folder, tmp_path):
    append(folder.log, [event | {"user": "loud"} for event in make_events(40)])
    arguments = [folder.model, f"events={folder.log}", f"published={folder.published.folder}", "update=head", *LOOSE]
    refused = command(*arguments, cwd=tmp_path)
    assert (refused.returncode, said(refused)) == (1, [])
    assert "not published: one user" in refused.stdout
    done = command(*arguments, "update.max_user_share=1", cwd=tmp_path)
    assert (done.returncode, said(done)) == (0, [])
    assert f"served: version 1 (update), {folder.published.folder}/versions/0001/bundle" in done.stdout
    assert not list(tmp_path.glob("outputs"))  # Hydra's own folder
    for mistake, told in [
        ([folder.model], "events: missing"),
        ([folder.model, "events=/nowhere"], "/nowhere: nothing is there"),
        (["/nowhere", f"events={folder.log}"], "allowed is a run or a bundle"),
        ([folder.model, "update.epochs=no"], "no"),
        ([folder.model, f"published={tmp_path / 'none'}", "--rollback"], "nothing is published there"),
        ([folder.model, f"published={folder.published.folder}", "--rollback", "9"], "no version 9 to go back to"),
    ]:
        wrong = command(*mistake, cwd=tmp_path)
        assert (wrong.returncode, wrong.stdout) == (2, ""), mistake
        assert told in wrong.stderr
        assert "Traceback" not in wrong.stderr
        assert len(wrong.stderr.strip().splitlines()) == 1
