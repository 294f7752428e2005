"""What a tracker is told of a run, read from the run's folder and the stages it names."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rankdistill.export.errors import UserError
from rankdistill.export.report.recommendation import headline as first_line
from rankdistill.export.report.recommendation import recommendation_of
from rankdistill.export.report.tradeoff_table import finding, headline

FILES = ("report.html", "tradeoff.json", "gate.json", "config.yaml", "run.json", "distill.log")
LEFT_OUT = ("track",)  # of the configuration: where a run is recorded is no parameter of it
TRAINED = ("teacher", "student")
NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 500, 5000  # what MLflow servers of all ages take
CUT = "…"


@dataclass(frozen=True)
class Metric:
    """A number, and for learning curves the training step that it belongs to."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class Tracked:
    """What is recorded of a run.

    Attributes:
        name: shown for the run.
        experiment: as in run.json.
        status: finished, failed, pruned, or running, which a killed run's run.json says too.
        started, ended: milliseconds since 1970.
        params: the flattened configuration.
        tags: what else tells runs apart; empty ones do not hold.
        metrics: the table, the gate, seconds and learning curves.
        note: a few lines of Markdown.
        files: small files to be attached.
        bundle: the bundle's folder; None for a run without one.
        summary: tags of the bundle's version in a model registry.
        version: hash of the configuration.
    """

    name: str
    experiment: str
    status: str
    started: int
    ended: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: list[Metric]
    note: str
    files: list[Path]
    bundle: Path | None
    summary: dict[str, str]
    version: str


def read_run(folder: Path, job: bool = False) -> Tracked:
    """Read a run's folder.

    Args:
        folder: of a run that has ended, in whatever way.
        job: whether it is a sweep's job, whose folder's name is a number.

    Raises:
        UserError: if it is no run, or a file of it is damaged.
    """
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} is no run: it has no run.json")
    record = read_json(folder / "run.json")
    try:
        started = int(datetime.fromisoformat(record["started"]).timestamp() * 1000)
        finished = record["status"] == "finished"
        tradeoff = read_json(folder / "tradeoff.json") if finished else {}
        gate = read_json(folder / "gate.json") if finished and (folder / "gate.json").is_file() else {}
        bundle = folder / "bundle"
        return Tracked(
            name=f"job {folder.name}" if job else folder.name,
            experiment=record["experiment"],
            status=record["status"],
            started=started,
            ended=started + int(record["seconds"] * 1000),
            params=_params(folder / "config.yaml"),
            tags=dict(_tags(folder, record, tradeoff, gate)),
            metrics=[*_table(tradeoff), *_gate(gate), *_seconds(record, tradeoff), *_curves(folder, record)],
            note=_note(record, tradeoff, gate),
            files=[folder / name for name in FILES if (folder / name).is_file()],
            bundle=bundle if finished and bundle.is_dir() else None,
            summary=_summary(tradeoff, gate),
            version=_version(folder / "config.yaml"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder} cannot be read: {type(error).__name__} {error}; give the run's command again"
        ) from error


def clean(name: str) -> str:
    """Return a name as MLflow takes it: letters, digits and _ - . space /, everything else is `_` (`ndcg_10`)."""
    return re.sub(r"[^\w.\- /]", "_", name)[:NAME_LENGTH]


def cut(text: str, length: int) -> str:
    """Return a text of at most this length, with a mark where it was cut."""
    return text if len(text) <= length else text[: length - len(CUT)] + CUT


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: naming the file, if it is damaged or gone.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _params(path: Path) -> dict[str, str]:
    """Return the configuration's options by dotted name; a run whose options were refused has none."""
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    kept = {name: value for name, value in config.items() if name not in LEFT_OUT}
    return {clean(name): cut(value, PARAM_LENGTH) for name, value in _flat(kept, "")}


def _version(path: Path) -> str:
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()[:8]


def _flat(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{name}", text


def _tags(
    folder: Path, record: Mapping[str, Any], tradeoff: Mapping[str, Any], gate: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    known = {
        "experiment": record["experiment"],
        "status": record["status"],
        "error": record.get("error"),
        "overrides": " ".join(record["overrides"]),
        "dataset": tradeoff.get("dataset"),
        "data": Path(record["stages"].get("data", "")).name,
        "host": _host(tradeoff.get("host") or {}),
        "versions": ", ".join(f"{name} {version}" for name, version in (tradeoff.get("versions") or {}).items()),
        "folder": str(folder.absolute()),
        "recommendation": recommendation_of(tradeoff).status if tradeoff else None,
        "verdict": gate.get("verdict"),
    }
    for name, value in known.items():
        yield name, cut(str(value or ""), TAG_LENGTH)
    for line in gate.get("lines", ()):
        yield clean(f"verdict.{line['metric']}"), line["verdict"]


def _host(host: Mapping[str, Any]) -> str:
    units = {"processor": "", "cores": " cores", "memory_gb": " GB", "system": ""}
    return ", ".join(f"{host[name]}{unit}" for name, unit in units.items() if host.get(name))


def _table(tradeoff: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield `student.int8/retention` and so on; the engine is named where it is not onnxruntime.

    MLflow's pages have a section for each prefix before the slash.
    """
    for row in tradeoff.get("rows", ()):
        engine = None if row.get("engine") == "onnxruntime" else row.get("engine")
        model = ".".join(part for part in (row["model"], engine, row.get("precision")) if part)
        for name, value in row.items():
            if name.endswith("_ci"):
                low, high = value or (None, None)
                yield from _metrics({f"{model}/{name[:-3]}.low": low, f"{model}/{name[:-3]}.high": high})
            else:
                yield from _metrics({f"{model}/{name}": value})


def _gate(gate: Mapping[str, Any]) -> Iterator[Metric]:
    for line in gate.get("lines", ()):
        name = f"gate/{line['metric']}"
        ends = {f"{name}.{end}": line[end] for end in ("low", "high", "allowed")}
        yield from _metrics({name: line["measured"]} | ends)


def _seconds(record: Mapping[str, Any], tradeoff: Mapping[str, Any]) -> Iterator[Metric]:
    stages = {f"seconds/{role}": seconds for role, seconds in (tradeoff.get("seconds") or {}).items()}
    yield from _metrics({"seconds/run": record["seconds"]} | stages)


def _curves(folder: Path, record: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the learning curves of what was trained; a ready teacher and a deleted stage have none."""
    for role in TRAINED:
        path = folder / record["stages"].get(role, "-") / "training.json"
        for row in read_json(path)["history"] if path.is_file() else ():
            numbers = {f"{role}.training/{name}": value for name, value in row.items() if name not in ("step", "epoch")}
            yield from _metrics(numbers, int(row["step"]))


def _metrics(values: Mapping[str, Any], step: int = 0) -> Iterator[Metric]:
    """Yield those values that are finite numbers."""
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield Metric(clean(name), float(value), step)


def _note(record: Mapping[str, Any], tradeoff: Mapping[str, Any], gate: Mapping[str, Any]) -> str:
    if not tradeoff:
        return cut(f"{record['status']}: {record.get('error', '')}", TAG_LENGTH)
    lines = [f"- warning: {warning}" for warning in tradeoff.get("warnings", ())]
    lines += [f"- {line['verdict']}: `{line['bound']}`" for line in gate.get("lines", ())]
    first = [first_line(recommendation_of(tradeoff).sentence), "", finding(tradeoff), ""]
    return cut("\n".join([*first, *lines]), TAG_LENGTH)


def _summary(tradeoff: Mapping[str, Any], gate: Mapping[str, Any]) -> dict[str, str]:
    row = headline(tradeoff) if tradeoff else None
    values = {name: (row or {}).get(name) for name in ("retention", "size_mb")} | {"verdict": gate.get("verdict")}
    values |= {"bundle_key": gate.get("key")}
    values |= {"recommendation": recommendation_of(tradeoff).status if tradeoff else None}
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in values.items() if value}
