"""The doors of the commands: they say which extra is missing before anything of it is imported."""

import sys

from export.errors import UserError
from export.extras import require


def main() -> None:
    """Run the `distill` command."""
    _require("hydra", "omegaconf", "torch", "transformers", "datasets", "optimum", "onnx", "rich")
    from distill import cli
    from distill.sweep.jobs import end_with_parent

    end_with_parent()
    cli.main()


def store() -> None:
    """Run the `distill-store` command."""
    _require("filelock", "rich")
    from distill import store_cli

    store_cli.app()


def _require(*modules: str) -> None:
    try:
        require("train", *modules)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
