"""Links that show the repository as the package that it makes, for tools that follow paths alone (mypy).

python scripts/source_links.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / ".venv/source/rankdistill"


def main() -> None:
    """Make the links anew."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    PACKAGE.mkdir(parents=True)
    for path in [*(ROOT / "distill").iterdir(), ROOT / "export", ROOT / "conf"]:
        if path.name != "__pycache__":
            (PACKAGE / path.name).symlink_to(path, target_is_directory=path.is_dir())


if __name__ == "__main__":
    main()
