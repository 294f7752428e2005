"""The doors of the commands: they say which extra is missing before anything of it is imported."""

from export.extras import require


def main() -> None:
    """Run the `distill` command."""
    require("train", "hydra", "omegaconf", "torch", "transformers", "datasets", "optimum", "onnx", "rich")
    from distill import cli

    cli.main()


def store() -> None:
    """Run the `distill-store` command."""
    require("train", "filelock", "rich")
    from distill import store_cli

    store_cli.app()


if __name__ == "__main__":
    main()
