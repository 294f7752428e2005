"""The `distill-store` command: what is in the store of stages, and what can go."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from rankdistill.export.commands.command_options import at_home
from rankdistill.export.commands.output import printing, printing_at_best
from rankdistill.export.errors import UserError
from rankdistill.export.full_disk import write_problem
from rankdistill.store.references import STAGES, referred
from rankdistill.store.stages import RECORD, Store

app = typer.Typer(
    help="The store of stages: finished pieces of work that runs share.", no_args_is_help=True, add_completion=True
)
Found = TypeVar("Found")
Runs = Annotated[Path, typer.Option(help="The folder of runs; its stages/ is the store.")]


@dataclass(frozen=True)
class Entry:
    """A stage in the store."""

    folder: Path
    created: str
    megabytes: float
    runs: int


def entries(runs: Path) -> Iterator[Entry]:
    """Yield the store's stages, finished ones first."""
    store, counts = Store(runs / STAGES), referred(runs)
    for key in store.finished():
        folder = store.root / key
        try:
            created = str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["created"])
        except FileNotFoundError:  # another process deletes it
            continue
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(f"{folder / RECORD} cannot be read ({error}); delete the folder {folder}") from error
        yield Entry(folder, created, _megabytes(folder), counts.get(key, 0))
    for folder in store.unfinished():
        yield Entry(folder, "unfinished", _megabytes(folder), 0)


@app.command("list")
@at_home
def list_(runs: Runs = Path("runs")) -> None:
    """Show every stage, its size, and how many runs refer to it."""
    table = Table("stage", "created (UTC)", "MB", "runs")
    found = list(_entries_or_exit(runs))
    for entry in found:
        table.add_row(entry.folder.name, entry.created[:16], f"{entry.megabytes:.1f}", str(entry.runs))
    console = Console(width=None if sys.stdout.isatty() else 120)
    said = f"{len(found)} stages, {sum(entry.megabytes for entry in found):.1f} MB in {runs / STAGES}"
    _or_exit(lambda: _print(console, table, said))


@app.command()
@at_home
def prune(
    runs: Runs = Path("runs"),
    dry_run: Annotated[bool, typer.Option(help="Say what would go, delete nothing.")] = False,
    unfinished: Annotated[bool, typer.Option(help="Also what killed runs left to go on from.")] = False,
) -> None:
    """Delete the stages that no run refers to. Delete a run's folder first to free what only it used.

    Runs are those in the folder, behind links in it, and those elsewhere (hydra.run.dir) that used this store. A stage
    that is a link is left alone.
    """
    console = Console(soft_wrap=True)
    freed = 0.0
    for entry in _entries_or_exit(runs):
        if entry.runs or (entry.created == "unfinished" and not unfinished):
            continue
        if entry.folder.is_symlink():
            said = f"kept {entry.folder.name}: it is a link"
        elif not dry_run and not _remove_or_exit(runs, entry):
            said = f"kept {entry.folder.name}: somebody is making or using it, or has deleted it"
        else:
            said = f"{'would delete' if dry_run else 'deleted'} {entry.folder.name} ({entry.megabytes:.1f} MB)"
            freed += entry.megabytes
        with printing_at_best("what is left: distill-store list"):
            console.print(said)
    with printing_at_best("what is left: distill-store list"):
        console.print(f"{freed:.1f} MB {'would be ' if dry_run else ''}freed")


def _remove_or_exit(runs: Path, entry: Entry) -> bool:
    """Delete a stage if no run refers to it even now: runs begin while others are looked at."""
    return _or_exit(lambda: Store(runs / STAGES).remove(entry.folder, lambda: entry.folder.name in referred(runs)))


def _entries_or_exit(runs: Path) -> list[Entry]:
    if not (runs / STAGES).is_dir():
        typer.echo(f"{runs} has no stages/; give the folder of runs: --runs FOLDER", err=True)
        raise typer.Exit(2)
    return _or_exit(lambda: list(entries(runs)))


def _print(console: Console, *told: Table | str) -> None:
    with printing():
        for each in told:
            console.print(each)


def _or_exit(do: Callable[[], Found]) -> Found:
    """Return what a function does; tell a mistake in one line and end with code 2."""
    try:
        return do()
    except (UserError, OSError) as error:
        typer.echo((isinstance(error, OSError) and write_problem(error, [Path()])) or str(error), err=True)
        raise typer.Exit(2) from error


def _megabytes(folder: Path) -> float:
    total = 0
    for path in _files(folder):
        with suppress(FileNotFoundError):  # a build goes on
            total += path.stat().st_size
    return total / 1e6


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, in which others may write and delete meanwhile.

    Raises:
        UserError: if a folder cannot be read, for what is not seen there would be taken for not there.
    """

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    for where, _, names in os.walk(folder, onerror=unreadable):
        yield from (Path(where, name) for name in names)
