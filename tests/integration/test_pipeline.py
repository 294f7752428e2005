"""The whole way on a two-layer BERT and a tiny set: the table, reuse, a multirun, Chinese, other folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rankdistill import verify
from tests.conftest import write_beir, write_encoder
from tests.integration.commands import TIMED, distill, newest_run, quality, small, table

pytestmark = pytest.mark.integration

FIELDS = (
    "model engine precision ndcg@10 ndcg@10_ci retention retention_ci mrr@10 map pair_accuracy tau rbo overlap@10 "
    "p50_ms p95_ms p99_ms pairs_per_s cpu_ms_per_query speedup speedup_ci size_mb params peak_rss_mb"
).split()

TRACKED = "train.report_to=[tensorboard]"


@pytest.fixture(scope="module")
def place(tmp_path_factory, beir, encoder):
    folder = tmp_path_factory.mktemp("place")
    done = distill(*small(beir, encoder), TRACKED, *TIMED, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_tensorboard_follows_the_trainings(place):
    for stage in ("teacher", "student"):
        (events,) = place[0].glob(f"runs/stages/{stage}-*/tracker/events.out.tfevents.*")
        content = events.read_bytes()
        assert b"train/loss" in content
        assert b"eval/ndcg@10" in content


def test_the_table_has_every_row_and_field(place):
    folder, done = place
    tradeoff = table(newest_run(folder))
    names = [(row["model"], row["engine"], row["precision"]) for row in tradeoff["rows"]]
    assert names == [
        ("teacher", "pytorch", "fp32"), ("teacher", "onnxruntime", "fp32"), ("teacher", "onnxruntime", "int8"),
        ("student", "onnxruntime", "fp32"), ("student", "onnxruntime", "int8"),
        ("bm25", None, None), ("embedding", "pytorch", "fp32"),
    ]  # fmt: skip
    for row in tradeoff["rows"]:
        assert set(FIELDS) <= set(row)
        low, high = row["ndcg@10_ci"]
        assert 0 <= low <= row["ndcg@10"] <= high <= 1
    assert tradeoff["rows"][0]["retention_ci"] == [1, 1]
    assert tradeoff["rows"][0]["tau"] == pytest.approx(1)
    assert {"dataset", "split", "host", "versions"} <= set(tradeoff)
    assert "student" in done.stdout
    assert "Traceback" not in done.stderr
    assert "it/s" not in done.stderr  # a library's own bar


def test_onnx_gives_the_quality_of_pytorch(place):
    pytorch, onnx = table(newest_run(place[0]))["rows"][:2]
    assert onnx["ndcg@10"] == pytest.approx(pytorch["ndcg@10"], abs=1e-6)
    assert onnx["tau"] > 0.999


def test_the_teacher_learned(place):
    rows = {row["model"]: row for row in reversed(table(newest_run(place[0]))["rows"])}
    assert rows["teacher"]["ndcg@10"] > 0.8  # a random order of these lists has about .6


def test_run_json_names_its_stages_by_relative_paths(place):
    run = newest_run(place[0])
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert {"data", "tokens", "teacher", "scores", "student", "latency"} <= set(record["stages"])
    scored = {role: path for role, path in record["stages"].items() if role.startswith("predictions ")}
    assert scored["predictions teacher pytorch fp32"] == scored["predictions teacher onnxruntime fp32"]
    assert len(set(scored.values())) == len(scored) - 1  # and no two others are the same
    for path in record["stages"].values():
        assert path.startswith("../")
        assert (run / path / "stage.json").is_file()
    assert (run / "config.yaml").is_file()
    assert (run / "distill.log").stat().st_size > 0
    assert "<svg" in (run / "report.html").read_text()


def test_a_run_ends_with_its_verdict(place):
    run = newest_run(place[0])
    gate = json.loads((run / "gate.json").read_text())
    lines = {line["metric"]: line for line in gate["lines"]}
    assert set(lines) == {"recommendation", "retention", "lift_kept", "size_mb", "cpu_speedup_vs_teacher_onnx"}
    verdict = table(run)["verdict"]
    assert verdict["status"] in ("recommended", "not_shown", "not_recommended")
    assert lines["recommendation"]["verdict"] == "pass"  # the budget of these tests allows any
    status = verdict["status"].replace("_", " ")  # its interval is of more resamples here
    assert {gate["lines"][0]["note"].partition(":")[0], verdict["sentence"].partition(":")[0]} == {status}
    said = place[1].stdout.splitlines()
    assert verdict["sentence"] in said
    assert said.index(verdict["sentence"]) < next(i for i, line in enumerate(said) if line.startswith("model "))
    assert verdict["sentence"][1:] in (run / "report.html").read_text().partition("</h1>")[0]
    assert json.loads((run / "bundle" / "manifest.json").read_text())["verdict"] == verdict
    card = (run / "bundle" / "README.md").read_text(encoding="utf-8")
    said_by_card = card.partition("\n# ")[2].splitlines()[2]
    assert said_by_card == f"**{verdict['sentence'][0].upper()}{verdict['sentence'][1:]}.**"
    rows = {(row["model"], row["engine"], row["precision"]): row for row in table(run)["rows"]}
    student, teacher = rows["student", "onnxruntime", "int8"], rows["teacher", "onnxruntime", "fp32"]
    assert lines["retention"]["measured"] == pytest.approx(student["retention"], abs=1e-5)
    assert (lines["retention"]["low"], lines["retention"]["high"]) != (None, None)
    assert lines["size_mb"]["verdict"] == "pass"
    speedup = teacher["cpu_ms_per_query"] / student["cpu_ms_per_query"]
    assert lines["cpu_speedup_vs_teacher_onnx"]["measured"] == pytest.approx(speedup)
    assert gate["verdict"] in ("pass", "fail", "inconclusive", "unusable")
    assert f"budget, {lines['size_mb']['verdict']}: size_mb <= 25" in place[1].stdout + place[1].stderr


def test_again_reuses_every_stage_and_gives_the_same_table(place, beir, encoder):
    folder, _ = place
    first = table(newest_run(folder))
    done = distill(*small(beir, encoder), TRACKED, *TIMED, cwd=folder)
    assert done.returncode == 0, done.stderr
    again = newest_run(folder)
    record = json.loads((again / "run.json").read_text())
    assert record["reused"] == list(record["stages"])
    assert table(again)["rows"] == first["rows"]


def test_times_can_wait(place, beir, encoder):
    folder, _ = place
    timed = table(newest_run(folder))
    done = distill(*small(beir, encoder), TRACKED, "name=untimed", cwd=folder)
    assert done.returncode == 0, done.stderr
    run = newest_run(folder, "untimed")
    tradeoff = table(run)
    assert "latency" not in tradeoff["stages"]
    assert quality(tradeoff) == quality(timed)
    assert tradeoff["comparisons"] == timed["comparisons"]
    assert {row[name] for row in tradeoff["rows"] for name in ("p50_ms", "speedup", "peak_rss_mb")} == {None}
    lines = {line["metric"]: line for line in json.loads((run / "gate.json").read_text())["lines"]}
    assert lines["retention"]["verdict"] == "pass"
    assert lines["cpu_speedup_vs_teacher_onnx"]["verdict"] == "inconclusive"
    assert "ranker gate" in lines["cpu_speedup_vs_teacher_onnx"]["note"]
    assert "No latency was measured" in (run / "report.html").read_text()
    assert [finding for finding in verify(run / "bundle") if not finding.ok] == []
    done = distill(*small(beir, encoder), "cascade=bm25_student_teacher", "name=refused", cwd=folder)
    assert done.returncode == 1
    assert "measure.latency_queries=0: allowed is a number >= 1" in done.stderr


def test_a_sweep_trains_one_teacher(place, beir, encoder):
    folder, _ = place
    done = distill("-m", *small(beir, encoder), TRACKED, "student.layers=1,2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "runs/stages").glob("teacher-*"))) == 1
    assert len(list((folder / "runs/stages").glob("student-*"))) == 2
    jobs = list((folder / "runs/sweeps/small").glob("*/*/tradeoff.json"))
    assert len(jobs) == 2


def test_a_students_embeddings_are_frozen_apart_from_its_teachers(place, beir, encoder):
    folder, _ = place
    arguments = [*small(beir, encoder), TRACKED, "student.freeze_embeddings=true"]
    done = distill(*arguments, "name=frozen", cwd=folder)
    assert done.returncode == 0, done.stderr
    stages = folder / "runs/stages"
    told = json.loads((newest_run(folder, "frozen") / "run.json").read_text())["stages"]
    (teacher,) = stages.glob("teacher-*")
    learned = json.loads((newest_run(folder) / "run.json").read_text())["stages"]["student"]
    assert told["student"] != learned
    begun, frozen, free = (
        load_file(each / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
        for each in (teacher, *(stages / Path(name).name for name in (told["student"], learned)))
    )
    assert torch.equal(frozen, begun)
    assert not torch.equal(free, begun)


def test_a_sweep_goes_on_after_a_job_that_fails(place, beir, encoder):
    folder, _ = place
    done = distill("-m", *small(beir, encoder), TRACKED, "student.layers=9,1", "name=broken", cwd=folder)
    assert done.returncode != 0
    assert "student.layers=9: allowed is 1 to 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((folder / "runs/sweeps/broken").glob("*/1/tradeoff.json"))) == 1


def test_without_quantization_and_cls_only_there_are_other_rows(place, beir, encoder):
    folder, _ = place
    done = distill(
        *small(beir, encoder), "quantize=none", "export.cls_only=false", "budget=none", "name=plain", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    tradeoff = table(newest_run(folder, "plain"))
    assert not [row for row in tradeoff["rows"] if row["precision"] == "int8"]
    assert not any(graph["cls_only"] for graph in tradeoff["graphs"])
    assert not (newest_run(folder, "plain") / "gate.json").exists()


def test_a_tuned_reranker_is_used_as_it_is(place, beir):
    folder, _ = place
    teacher = next((folder / "runs/stages").glob("teacher-*"))
    arguments = [a for a in small(beir, teacher) if not a.startswith("teacher.fit")]
    done = distill("teacher=cross_encoder", *[a for a in arguments if "sha256" not in a], "name=tuned", cwd=folder)
    assert done.returncode == 0, done.stderr
    first, tuned = table(newest_run(folder)), table(newest_run(folder, "tuned"))
    assert tuned["rows"][0]["ndcg@10"] == pytest.approx(first["rows"][0]["ndcg@10"], abs=1e-6)
    assert "embedding" not in {row["model"] for row in tuned["rows"]}


def test_chinese_the_whole_way(tmp_path, monkeypatch):
    characters = list("红蓝绿小大旧新快慢圆平软硬暖冷轻重响静亮车船灯椅桌机衣鞋书杯刀钟包篷轮帽戒鼓筝沙")
    monkeypatch.setattr("tests.conftest.WORDS", characters[:20])
    monkeypatch.setattr("tests.conftest.THINGS", characters[20:])
    write_beir(tmp_path / "set")
    write_encoder(tmp_path / "bert", characters)
    for name in ("corpus.jsonl", "queries.jsonl"):  # no spaces between words
        path = tmp_path / "set" / name
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps(row | {"text": row["text"].replace(" ", "")}, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = distill(*small(tmp_path / "set", tmp_path / "bert"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["model"]: row for row in table(newest_run(tmp_path))["rows"]}
    assert rows["bm25"]["ndcg@10"] > 0.7  # characters are terms: without that, nothing matches
    assert rows["teacher"]["ndcg@10"] > 0.7


def test_a_damaged_stage_is_named(place, beir, encoder, tmp_path):
    shutil.copytree(place[0] / "runs", tmp_path / "runs")
    stage = tmp_path / "runs/stages" / table(newest_run(place[0]))["stages"]["teacher"]
    (stage / "stage.json").write_text("{half")
    done = distill(*small(beir, encoder), TRACKED, cwd=tmp_path)
    assert done.returncode != 0
    assert "is damaged" in done.stderr
    assert "delete the folder" in done.stderr
