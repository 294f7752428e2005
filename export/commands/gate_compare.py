"""`ranker bench`, `gate` and `compare`, which judge a bundle or runs: their options."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rankdistill.export.commands.command_options import Folder, Threads, VariantName
from rankdistill.export.commands.output import printing, printing_at_best, say
from rankdistill.export.errors import UserError


def bench(
    bundle: Folder,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", help='JSON Lines of {"query": ..., "items": [...]}; without it, its golden texts.'),
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, help="Items of a request made of golden texts.")] = 50,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Graph to time; several times for several.")
    ] = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Time to spend, at least.")] = 10.0,
    least: Annotated[int, typer.Option("--least", min=1, help="Requests of each graph, at least.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with host and versions.")] = False,
) -> None:
    """Time a bundle's graphs on this machine, interleaved, tokenisation included."""
    from rich.console import Console
    from rich.progress import Progress

    from rankdistill.export.measure import bench as bench_
    from rankdistill.export.measure.host import describe_host, versions
    from rankdistill.export.runtime.manifest import FP32, Manifest

    manifest = Manifest.read(bundle)
    asked = bench_.read_requests(requests) if requests else bench_.golden_requests(bundle, items)
    names = variant or list(dict.fromkeys([manifest.variant().name, FP32]))
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("time", total=1.0)
        rows = bench_.bench(
            bundle, asked, variants=names, threads=threads, seconds=seconds, least=least,
            progress=lambda share: bar.update(task, completed=share),
        )  # fmt: skip
    host = describe_host()
    if as_json:
        told = {"host": host, "versions": versions(("rankdistill", "onnxruntime", "tokenizers", "numpy"))}
        say(json.dumps(told | {"variants": [row.as_dict() for row in rows]}, indent=2))
        return
    _print_phases([row.as_dict() for row in rows])
    say(
        f"{rows[0].requests} requests ({rows[0].pairs} pairs) of each graph; threads: {rows[0].threads}; "
        f"{host['processor']}"
    )


def gate(
    subject: Annotated[
        Path, typer.Argument(metavar="BUNDLE_OR_RUN", help="A bundle, or the folder of a run.", show_default=False)
    ],
    budget: Annotated[Path, typer.Option("--budget", help="YAML file with the bounds.", show_default=False)],
    baseline: Annotated[Path | None, typer.Option("--baseline", help="Bundle that ratios are against.")] = None,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", help="Run whose teacher is compared with; else the bundle's own run.")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", help='JSON Lines of {"query": ..., "items": [...]}; without it, its golden texts.'),
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, help="Items of a request made of golden texts.")] = 20,
    variant: VariantName = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the verdict as JSON.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the verdict as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Append the verdict as Markdown.")] = None,
) -> None:
    """Hold a bundle to a budget; latency is measured here and now.

    Ends with 0 pass, 1 fail, 3 inconclusive, 2 unusable input.
    """
    from rich.console import Console
    from rich.progress import Progress

    from rankdistill.export.gate import bundle_gate
    from rankdistill.export.gate import verdict_files as verdict_

    _check_targets({"--json": json_file, "--junit": junit, "--markdown": markdown})
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("measure", total=1.0)
        verdict, about = bundle_gate.gate(
            subject, budget, baseline=baseline, teacher=teacher, requests=requests, items=items, variant=variant,
            progress=lambda what, share: bar.update(task, description=what, completed=share),
        )  # fmt: skip
    with printing_at_best(f"the verdict is {verdict.verdict}"):
        for line in verdict.lines:
            typer.echo(f"{line.verdict:12} {verdict_.finding(line)}")
        typer.echo(verdict.verdict)
    title = about["bundle"]
    for path, text in ((json_file, verdict_.as_json(verdict, about)), (junit, verdict_.as_junit(verdict, title))):
        if path is not None:
            _write(path, text)
    if markdown is not None:
        _append(markdown, verdict_.as_markdown(verdict, title))
    raise typer.Exit(verdict.exit_code)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Folders of runs; a sweep's folder stands for its jobs.", show_default=False
        ),
    ],
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a table, a row a run.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the fronts and differences.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON.")] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Run that differences are with; else the first with a result.")
    ] = None,
) -> None:
    """Compare runs: quality, cost, fronts, and which differences are more than chance.

    Ends with 0, or with 2 for unusable input.
    """
    from rich.console import Console

    from rankdistill.export.compare import comparison as comparison_

    _check_targets({"--csv": csv_file, "--html": html, "--json": json_file})
    comparison = comparison_.compare(runs, reference)
    try:
        with printing():
            comparison_.show(comparison, Console())
    finally:
        comparison_.write(comparison, csv_file=csv_file, html=html, json_file=json_file)


def _check_targets(files: Mapping[str, Path | None]) -> None:
    """Refuse files that cannot be written, before time is spent on what would be written into them."""
    for option, path in files.items():
        if path is None:
            continue
        try:
            folder, beside = path.is_dir(), path.parent.is_dir()
        except OSError as error:
            raise UserError(f"{option} {path} cannot be written: {error.strerror}") from error
        if folder:
            raise UserError(f"{option} {path} cannot be written: it is a folder; name a file")
        if not beside:
            raise UserError(f"{option} {path} cannot be written: there is no folder {path.parent}; make it first")


def _write(path: Path, text: str) -> None:
    from rankdistill.export.files import write_atomic

    try:
        write_atomic(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _print_phases(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    columns = ("load_ms", "first_ms", "p50_ms", "p95_ms", "p99_ms", "cpu_ms", "pairs_per_s")
    table.add_column("variant")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(row["variant"], *(f"{row[column]:.{0 if column == 'pairs_per_s' else 1}f}" for column in columns))
    with printing():
        Console(width=None if sys.stdout.isatty() else 120).print(table)
