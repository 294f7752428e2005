"""The `ranker` command: what is done with a finished bundle. Needs no training stack, but for `bundle`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from rankdistill.export.commands.command_options import Folder, StatesFolder, Threads, VariantName, at_home
from rankdistill.export.commands.embed import embed
from rankdistill.export.commands.gate_compare import bench, compare, gate
from rankdistill.export.commands.output import open_streams, printing_at_best, say
from rankdistill.export.commands.serve import serve
from rankdistill.export.commands.states import states as states_
from rankdistill.export.errors import UserError
from rankdistill.export.full_disk import paths_among, write_problem

app = typer.Typer(
    help="Make, check and run the bundle of a distilled ranker.", no_args_is_help=True, add_completion=True,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


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
    except Exception as error:
        if isinstance(error, RuntimeError) and type(error).__module__.startswith(("click", "typer")):
            raise  # how a command ends
        problem = write_problem(error, paths_among(sys.argv[1:]))
        if problem is None:
            raise
        typer.secho(f"ranker: {problem}", err=True, fg="red")
        raise typer.Exit(2) from error


@app.command()
@at_home
def bundle(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; a bundle there is replaced.")],
    sign: Annotated[
        Path | None, typer.Option("--sign", help="Ed25519 private key (PEM) to sign the bundle with.")
    ] = None,
) -> None:
    """Make the bundle of a run: `distill` does this at the end of each."""
    from rankdistill.export.extras import require

    with _told():
        require("train", "jinja2", "matplotlib")
        from rankdistill.export.bundle.writer import write_bundle

        write_bundle(run, output, sign)
        with printing_at_best("the bundle is written"):
            typer.echo(str(output))


@app.command()
@at_home
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
    from rankdistill.export.bundle.verification import verify as findings_of

    wrong = 0
    with _told():
        for finding in findings_of(bundle, variant or (), key):
            wrong += not finding.ok
            if not (quiet and finding.ok):
                say(f"{finding.mark} {finding.what}: {finding.detail}", fg=None if finding.ok else "red")
    if wrong:
        typer.secho(f"{bundle} is not to be used: {wrong} finding{'s' if wrong > 1 else ''}", err=True, fg="red")
        raise typer.Exit(1)


@app.command()
@at_home
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
    states: StatesFolder = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON objects: line (of the input, from 1), score, item.")
    ] = False,
) -> None:
    """Rank items, one a line, for a query: best first."""
    from rankdistill.export.runtime.cascade import Cascade
    from rankdistill.export.runtime.manifest import Manifest
    from rankdistill.export.runtime.ranker import Ranker

    with _told():
        if level is not None and variant is not None:
            raise UserError(f"--variant {variant}: allowed is none with --level, whose stages have their own")
        if level is not None and states is not None:
            raise UserError(f"--states {states}: allowed is none with --level; states are of the student alone")
        lines, texts = _read_items(items)
        loaded: Ranker | Cascade
        if level is None:
            loaded = Ranker.load(bundle, variant=variant, threads=threads, states=states)
        else:
            loaded = Cascade.load(bundle, level, threads=threads)
        if doubt := Manifest.read(bundle).doubt:
            typer.secho(f"warning: {bundle}: {doubt}", err=True, fg="yellow")
        with loaded as ranker:
            for index, score in ranker.rank(query, texts, top):
                if as_json:
                    row = {"line": lines[index], "score": score, "item": texts[index]}
                    say(json.dumps(row, ensure_ascii=False))
                else:
                    say(f"{score:8.4f}  {texts[index]}")


@app.command()
@at_home
def shorten(
    bundle: Folder,
    items: Annotated[
        Path | None,
        typer.Argument(help="File with one item a line; without it, or as -, standard input.", show_default=False),
    ] = None,
) -> None:
    """Print items as the bundle's student reads them, line by line: for tools other than this runtime."""
    from rankdistill.export.runtime.manifest import SHORTENER, Manifest
    from rankdistill.export.runtime.text.shortener import Shortener

    with _told():
        shortener = Shortener.of(Manifest.read(bundle))
        if shortener is None:
            raise UserError(f"{bundle} has no {SHORTENER}: its student reads whole items")
        found = dict(zip(*_read_items(items), strict=True))
        for line in range(1, max(found) + 1):  # blank ones too: the output is as long as the input
            say(shortener.shorten(found.get(line, "")))


def _telling(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def told(*arguments: Any, **options: Any) -> None:
        with _told():
            command(*arguments, **options)

    return told


for command in (bench, gate, compare, embed, states_, serve):
    app.command()(_telling(at_home(command)))


def _read_items(path: Path | None) -> tuple[list[int], list[str]]:
    """Return the items that are not blank and their lines' numbers, from 1."""
    path = None if path == Path("-") else path
    if path is None and sys.stdin.isatty():
        typer.secho("items, one a line; end with Ctrl-D", err=True, dim=True)
    try:
        content = sys.stdin.buffer.read() if path is None else path.read_bytes()
        lines = [line.rstrip("\r") for line in content.decode("utf-8-sig").split("\n")]
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
    open_streams()
    app()


if __name__ == "__main__":
    main()
