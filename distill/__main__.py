"""The doors of the commands: they say which extra is missing before anything of it is imported."""

import sys

from rankdistill.export.commands.output import open_streams
from rankdistill.export.errors import UserError
from rankdistill.export.extras import require


def main() -> None:
    """Run the `distill` command."""
    open_streams()
    _require("hydra", "omegaconf", "torch", "transformers", "datasets", "optimum", "onnx", "rich")
    from rankdistill.commands import distill
    from rankdistill.sweep.jobs import end_with_parent

    end_with_parent()
    distill.main()


def store() -> None:
    """Run the `distill-store` command."""
    open_streams()
    _require("filelock", "rich")
    from rankdistill.commands import store as store_

    store_.app()


def track() -> None:
    """Run the `distill-track` command."""
    open_streams()
    _require("filelock", "hydra", "rich")
    _require("mlflow", extra="track")
    from rankdistill.commands import track as track_

    track_.app()


def update() -> None:
    """Run the `distill-update` command."""
    open_streams()
    _require("filelock", "hydra", "omegaconf", "torch", "transformers", "onnx", "rich", "safetensors")
    from rankdistill.commands import update as update_

    update_.main()


def _require(*modules: str, extra: str = "train") -> None:
    try:
        require(extra, *modules)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
