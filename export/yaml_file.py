"""YAML that a user wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rankdistill.export.errors import UserError


def read_yaml(path: Path) -> Any:
    """Return a YAML file's content.

    Raises:
        UserError: if it is missing or no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
