"""Options that several of the `ranker` command's commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
