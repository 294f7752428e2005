"""The doors of the commands: they say which extra is missing before anything of it is imported."""

import sys

from export.errors import UserError
from export.extras import require
from export.printing import open_streams


def main() -> None:
    """Run the `distill` command."""
    open_streams()
    _require("hydra", "omegaconf", "torch", "transformers", "datasets", "optimum", "onnx", "rich")
    from distill import cli
    from distill.sweep.jobs import end_with_parent

    end_with_parent()
    cli.main()


def store() -> None:
    """Run the `distill-store` command."""
    open_streams()
    _require("filelock", "rich")
    from distill import store_cli

    store_cli.app()


def track() -> None:
    """Run the `distill-track` command."""
    open_streams()
    _require("filelock", "hydra", "rich")
    _require("mlflow", extra="track")
    from distill import track_cli

    track_cli.app()


def update() -> None:
    """Run the `distill-update` command."""
    open_streams()
    _require("filelock", "hydra", "omegaconf", "torch", "transformers", "onnx", "rich", "safetensors")
    from distill.online import cli

    cli.main()


def _require(*modules: str, extra: str = "train") -> None:
    try:
        require(extra, *modules)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
