"""The `ranker` command: what is done with a finished bundle. Needs no training stack, but for `bundle`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from export.embed_cli import embed as embed_
from export.errors import UserError
from export.serve.cli import serve as serve_

app = typer.Typer(
    help="Make, check and run the bundle of a distilled ranker.", no_args_is_help=True, add_completion=True,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

Folder = Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)]
VariantName = Annotated[
    str | None, typer.Option("--variant", help="Graph to run; without it, the one for this processor.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Pairs scored at once; without it, every core.")]


@contextmanager
def _told() -> Iterator[None]:
    """Tell a mistake in one line and end with code 2: nothing was found out."""
    try:
        yield
    except UserError as error:
        typer.secho(f"ranker: {error}", err=True, fg="red")
        raise typer.Exit(2) from error
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone: nothing to tell
        raise typer.Exit(2) from None


@app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; a bundle there is replaced.")],
    sign: Annotated[
        Path | None, typer.Option("--sign", help="Ed25519 private key (PEM) to sign the bundle with.")
    ] = None,
) -> None:
    """Make the bundle of a run: `distill` does this at the end of each."""
    from export.extras import require

    with _told():
        require("train", "jinja2", "matplotlib")
        from export.bundle import write_bundle

        write_bundle(run, output, sign)
    typer.echo(str(output))


@app.command()
def verify(
    bundle: Folder,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Graph whose scores are checked; several times for several.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Ed25519 public key (PEM) that must have signed it.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell only what is wrong.")] = False,
) -> None:
    """Check a bundle on this machine: files, manifest, graphs, tokenizer, scores.

    Ends with 0 if all is well, 1 if something is wrong, 2 if it could not be checked.
    """
    from export.verify import verify as findings_of

    wrong = 0
    with _told():
        for finding in findings_of(bundle, variant or (), key):
            wrong += not finding.ok
            if not (quiet and finding.ok):
                typer.secho(
                    f"{'ok   ' if finding.ok else 'WRONG'} {finding.what}: {finding.detail}",
                    fg=None if finding.ok else "red",
                )
    if wrong:
        typer.secho(f"{bundle} is not to be used: {wrong} finding{'s' if wrong > 1 else ''}", err=True, fg="red")
        raise typer.Exit(1)


@app.command()
def rank(
    bundle: Folder,
    query: Annotated[str, typer.Option("--query", "-q", help="Text of the query.", show_default=False)],
    items: Annotated[
        Path | None,
        typer.Argument(help="File with one item a line; without it, or as -, standard input.", show_default=False),
    ] = None,
    top: Annotated[int | None, typer.Option("--top", "-k", min=1, help="How many to print; without it, all.")] = None,
    variant: VariantName = None,
    level: Annotated[
        str | None, typer.Option("--level", help="Level of the bundle's cascade; without it, its student alone.")
    ] = None,
    threads: Threads = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON objects: line (of the input, from 1), score, item.")
    ] = False,
) -> None:
    """Rank items, one a line, for a query: best first."""
    from export.runtime.cascade import Cascade
    from export.runtime.ranker import Ranker

    with _told():
        if level is not None and variant is not None:
            raise UserError(f"--variant {variant}: allowed is none with --level, whose stages have their own")
        lines, texts = _read_items(items)
        loaded: Ranker | Cascade
        if level is None:
            loaded = Ranker.load(bundle, variant=variant, threads=threads)
        else:
            loaded = Cascade.load(bundle, level, threads=threads)
        with loaded as ranker:
            for index, score in ranker.rank(query, texts, top):
                if as_json:
                    row = {"line": lines[index], "score": score, "item": texts[index]}
                    typer.echo(json.dumps(row, ensure_ascii=False))
                else:
                    typer.echo(f"{score:8.4f}  {texts[index]}")


@app.command()
def shorten(
    bundle: Folder,
    items: Annotated[
        Path | None,
        typer.Argument(help="File with one item a line; without it, or as -, standard input.", show_default=False),
    ] = None,
) -> None:
    """Print items as the bundle's student reads them, line by line: for tools other than this runtime."""
    from export.runtime.manifest import SHORTENER, Manifest
    from export.runtime.shortener import Shortener

    with _told():
        shortener = Shortener.of(Manifest.read(bundle))
        if shortener is None:
            raise UserError(f"{bundle} has no {SHORTENER}: its student reads whole items")
        found = dict(zip(*_read_items(items), strict=True))
        for line in range(1, max(found) + 1):  # blank ones too: the output is as long as the input
            typer.echo(shortener.shorten(found.get(line, "")))


@app.command()
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

    from export import bench as bench_
    from export.host import describe_host, versions
    from export.runtime.manifest import FP32, Manifest

    with _told():
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
        typer.echo(json.dumps(told | {"variants": [row.as_dict() for row in rows]}, indent=2))
        return
    _print_phases([row.as_dict() for row in rows])
    typer.echo(
        f"{rows[0].requests} requests ({rows[0].pairs} pairs) of each graph; threads: {rows[0].threads}; "
        f"{host['processor']}"
    )


@app.command()
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

    from export import gating
    from export.measure import verdict as verdict_

    with _told():
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("measure", total=1.0)
            verdict, about = gating.gate(
                subject, budget, baseline=baseline, teacher=teacher, requests=requests, items=items, variant=variant,
                progress=lambda what, share: bar.update(task, description=what, completed=share),
            )  # fmt: skip
        title = about["bundle"]
        for path, text in ((json_file, verdict_.as_json(verdict, about)), (junit, verdict_.as_junit(verdict, title))):
            if path is not None:
                _write(path, text)
        if markdown is not None:
            _append(markdown, verdict_.as_markdown(verdict, title))
    for line in verdict.lines:
        typer.echo(f"{line.verdict:12} {verdict_.finding(line)}")
    typer.echo(verdict.verdict)
    raise typer.Exit(verdict.exit_code)


@app.command()
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

    from export import comparing

    with _told():
        comparison = comparing.compare(runs, reference)
        comparing.write(comparison, csv_file=csv_file, html=html, json_file=json_file)
        comparing.show(comparison, Console())


@app.command()
@wraps(embed_)
def embed(*arguments: Any, **options: Any) -> None:  # noqa: D103 - it is the wrapped one's
    with _told():
        embed_(*arguments, **options)


@app.command()
@wraps(serve_)
def serve(*arguments: Any, **options: Any) -> None:  # noqa: D103 - it is the wrapped one's
    with _told():
        serve_(*arguments, **options)


def _write(path: Path, text: str) -> None:
    from export.files import write_atomic

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
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _read_items(path: Path | None) -> tuple[list[int], list[str]]:
    """Return the items that are not blank and their lines' numbers, from 1."""
    path = None if path == Path("-") else path
    if path is None and sys.stdin.isatty():
        typer.secho("items, one a line; end with Ctrl-D", err=True, dim=True)
    try:
        content = sys.stdin.buffer.read() if path is None else path.read_bytes()
        lines = [line.rstrip("\r") for line in content.decode("utf-8").split("\n")]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path or 'standard input'}: not UTF-8 text ({error.reason}); convert it") from error
    found = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    if not found:
        raise UserError(f"{path or 'standard input'}: no items; give one a line")
    return list(found), list(found.values())


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a text shows its code
    app()


if __name__ == "__main__":
    main()
