"""What `distill` says: help, mistakes, other folders, a wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.commands import distill, small

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MISTAKES = {
    "budget.require=['recall >= 1']": "budget: 'recall >= 1': no metric recall; there are ndcg@10",
    "budget.require=['cpu_ratio <= 1.05']": "budget.require: cpu_ratio is against another bundle",
    "budget.allow=[best]": "budget: allow: [best]; a list of not_shown and not_recommended, or an empty one",
    "budget.confidence=2": "budget: confidence: 2.0; a number between 0.5 and 1",
    "student.layrs=3": "layrs",
    "student.fit.batch_tokens=60": "student.fit.batch_tokens=60: allowed is a number >= ",
    "student.layers=99": "student.layers=99: allowed is 1 to",
    "student.layers=abc": "student.layers=abc: allowed is a number of layers",
    "student.layers=[1,0]": "student.layers=[1, 0]: allowed is",
    "student.hidden_size=64": "student.hidden_size=64: allowed is 1 to 32",
    "student.max_length=1024": "student.max_length=1024: allowed is at most 128",
    "student.vocabulary.min_count=1000": "student.vocabulary.min_count=1000: allowed is 1 to ",
    "student.input.fields=title": "student.input.fields=title: allowed is all with",
    "rivals=/nonexistent.json": "rivals=/nonexistent.json: no file of a search's curves",
    "loss=nosuch": "nosuch",
    "loss.terms.margin_mse.temperature=2": "temperature",
    "+student.foo=1": "student.foo=1: no such option",
    "measure.threads=-1": "measure.threads=-1: allowed is a number >= 1",
    "measure.split=train": "measure.split=train: allowed is one of dev, test",
    "seed=x": "seed",
    "teacher.model=/nonexistent/model": "teacher.model=/nonexistent/model",
    "teacher.sha256=00": "teacher.sha256=00",
    "data.path=/nonexistent": "data.path=/nonexistent: allowed is an existing folder",
    "train.report_to=[nosuch]": "train.report_to=nosuch: allowed is any of",
    "train.precision=fp16": "train.precision=fp16: allowed is one of auto, fp32, bf16",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_without_a_traceback(mistake, beir, encoder, tmp_path):
    done = distill(*small(beir, encoder), mistake, cwd=tmp_path)
    assert done.returncode != 0
    assert MISTAKES[mistake] in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/stages/*teacher-*"))


def test_all_mistakes_are_told_at_once(beir, encoder, tmp_path):
    done = distill(
        *small(beir, encoder),
        "measure.threads=-1",
        "seed=-3",
        "train.dropout=2",
        "loss.terms.kl.weight=-1",
        cwd=tmp_path,
    )
    for line in ("measure.threads=-1", "seed=-3", "train.dropout=2.0", "loss.terms.kl.weight=-1.0"):
        assert f"{line}: allowed is" in done.stderr


def test_missing_path_is_asked_for(tmp_path):
    done = distill("data=beir", cwd=tmp_path)
    assert done.returncode != 0
    assert "data.path: missing; give data.path=..." in done.stderr


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", '{"_id": "i0", "text": "x"\n', "corpus.jsonl:1: broken JSON"),
        ("qrels/test.tsv", "q3\ti0\tmany\n", "nor is 'many' a score, a whole number"),
        ("qrels/test.tsv", "q3\ti999\t1\n", "qrels/test.tsv:1: item 'i999' is not in corpus.jsonl"),
    ],
)
def test_broken_data_names_file_and_line_and_leaves_no_stage(file, text, message, encoder, tmp_path):
    from tests.conftest import write_beir

    write_beir(tmp_path / "set")
    (tmp_path / "set" / file).write_text(text)
    done = distill(*small(tmp_path / "set", encoder), cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs/stages").glob("data-*"))


@pytest.mark.parametrize("flag", [["--help"], ["--cfg", "job"], ["--info", "searchpath"], ["-sc", "query=bash"]])
def test_hydras_flags_work_from_any_folder(flag, tmp_path):
    env = {"COMP_LINE": "distill student=l", "COMP_POINT": "17"} if "-sc" in flag else None
    done = distill(*flag, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_help_lists_what_each_group_has(tmp_path):
    text = distill("--help", cwd=tmp_path).stdout.replace("\n  ", " ")  # a long line is continued, indented
    groups = (
        "data teacher warm augment student loss train quantize cascade embed measure budget track experiment".split()
    )
    for group in groups:
        listed = next(line for line in text.splitlines() if line.startswith(f"{group}: ")).partition(": ")[2]
        names = re.split(r"[,;] ", re.sub(r" \(of \w+\)|; any sum.*", "", listed))
        assert sorted(names) == sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "conf/experiment").glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("change", [[], ["augment=none", "loss=labels"]], ids=["as it is", "labels alone"])
def test_every_experiment_composes(path, change, tmp_path):
    done = distill(f"experiment={path.stem}", *change, "--cfg", "job", "--resolve", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wheel_carries_the_configuration(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    env = {"PYTHONPATH": str(target)}
    where = subprocess.run(
        [sys.executable, "-c", "import rankdistill, rankdistill.conf as c; print(rankdistill.__file__, c.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | env,
    )
    assert where.stdout.count(str(target)) == 2
    done = distill("--cfg", "job", "student=l3_h384", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "layers: 3" in done.stdout
    assert (target / "rankdistill/export/report/report.html.j2").is_file()
