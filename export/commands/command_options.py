"""Options that several of the `ranker` command's commands have."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

Folder = Annotated[Path, typer.Argument(help="The bundle's folder.", show_default=False)]
VariantName = Annotated[
    str | None, typer.Option("--variant", help="Graph to run; without it, the one for this processor.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Pairs scored at once; without it, every core.")]
StatesFolder = Annotated[
    Path | None, typer.Option("--states", help="Folder of `ranker states`, from which a split student scores.")
]
TextFile = Annotated[
    Path, typer.Argument(metavar="IN", help="Texts: .txt, .jsonl, .csv, .tsv, .parquet, .arrow.", show_default=False)
]
TextFields = Annotated[
    list[str] | None, typer.Option("--text-field", help="Column of the text, else text; several are joined.")
]


def at_home(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that gets its paths with `~` expanded: a shell does not do so behind `--option=`."""

    @wraps(command)
    def expanding(**options: Any) -> None:
        command(**{name: _expanded(value) for name, value in options.items()})

    return expanding


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_expanded(each) for each in value]
    if not isinstance(value, Path) or not value.parts or not value.parts[0].startswith("~"):
        return value
    try:
        return value.expanduser()
    except RuntimeError as error:
        if value.parts[0] != "~":  # no user's name: a folder's
            return value
        raise typer.BadParameter(
            f"{value}: there is no home folder (HOME is not set); give a path without ~"
        ) from error
