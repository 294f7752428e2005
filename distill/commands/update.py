"""The `distill-update` command: compose, convert to dataclasses, validate, run; nothing else."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rankdistill import options
from rankdistill.errors import ConfigError
from rankdistill.export.commands.output import mute
from rankdistill.export.errors import UserError
from rankdistill.export.full_disk import paths_among, write_problem
from rankdistill.options import LoraUpdate, Updating
from rankdistill.options.from_hydra import to_dataclasses, unknown_options
from rankdistill.options.ranges import broken_rules, problem

USAGE = """distill-update RUN_OR_BUNDLE events=PATH [published=FOLDER] [update=KIND] [option=value ...]
       distill-update RUN_OR_BUNDLE events=PATH --follow
       distill-update RUN_OR_BUNDLE --versions | --rollback [VERSION] | --prune"""
ABOUT = "Learns from events what a served student lacks, and publishes it if it holds what it must (docs/updates.md)."
REFUSED = 1  # exit code of an update that is not published; 2 is a mistake in the command
MISTAKE = 2


def convert(composed: DictConfig) -> Updating:
    """Turn what Hydra composed into validated dataclasses.

    Raises:
        ConfigError: listing every option that is missing or cannot be.
    """
    config = to_dataclasses(composed)
    assert isinstance(config, Updating)
    problems = [*unknown_options(config, ""), *broken_rules(config, ""), *_cross_checks(config)]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def _cross_checks(config: Updating) -> list[str]:
    update, problems = config.update, []
    if isinstance(update, LoraUpdate) and update.optimizer == "keep":
        problems.append(problem("update.optimizer", "keep", "new with update=lora, whose adapters are merged"))
    if update.workers > 1 and update.optimizer == "keep":
        problems.append(problem("update.optimizer", "keep", f"new with update.workers={update.workers}"))
    if not update.labels + update.replay + update.anchor:
        problems.append("update.labels, update.replay and update.anchor are all 0; at least one must teach")
    if config.follow.drift and config.drift.measure != "ndcg@10":  # a log has the order that was shown, and no scores
        problems.append(problem("drift.measure", config.drift.measure, "ndcg@10 with follow.drift=true"))
    for option in ("events", "catalogue"):
        value = getattr(config, option)
        if value is not None and option == "catalogue" and not Path(value).expanduser().is_dir():
            problems.append(problem(option, value, "an existing folder"))
    if update.sign is not None and not Path(update.sign).expanduser().is_file():
        problems.append(problem("update.sign", update.sign, "an existing file with a private key"))
    return problems


def composed(model: str, overrides: Sequence[str]) -> DictConfig:
    """Return what the options make of conf/update.yaml.

    Raises:
        ConfigError: if an option is none, or not of its type.
    """
    options.register()
    try:
        with initialize_config_module("rankdistill.conf", version_base="1.3"):
            config = compose("update", overrides=[*overrides])
        config.model = model  # no override: a path may have any character
        return config
    except OverrideParseException as error:
        name, _, value = error.override.partition("=")
        raise ConfigError(f"{error.override}: cannot be read; quote it: \"{name}='{value}'\"") from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        told = [line.strip() for line in str(cause).splitlines() if line.strip()]
        names = [line for line in told[1:] if re.fullmatch(r"\w+", line)]  # of a group, where another was asked for
        raise ConfigError(told[0] + (f"; there are {', '.join(names)}" if names else "")) from error


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the words of a command line: the model, one action at most, and the options for Hydra."""
    parser = argparse.ArgumentParser("distill-update", usage=USAGE, description=ABOUT, allow_abbrev=False)
    parser.add_argument("model", help="run or bundle that the first version is")
    parser.add_argument("overrides", nargs="*", metavar="option=value", help="of conf/update.yaml")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--follow", action="store_true", help="work beside the service until SIGTERM")
    action.add_argument("--versions", action="store_true", help="list the versions")
    action.add_argument("--rollback", nargs="?", const="", metavar="VERSION", help="serve an earlier version again")
    action.add_argument("--prune", action="store_true", help="delete all versions before the newest keep=5 students")
    words = parser.parse_intermixed_args(arguments)
    if words.rollback and "=" in words.rollback:  # an option behind --rollback without a version
        words.overrides.append(words.rollback)
        words.rollback = ""
    if words.rollback and not words.rollback.isdecimal():
        parser.error(f"--rollback {words.rollback}: allowed is the number of a version")
    if odd := [word for word in words.overrides if "=" not in word]:
        parser.error(f"{odd[0]}: allowed is option=value behind the run or bundle")
    return words


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Raises:
        UserError: if something is wrong that a user can mend.
    """
    words = parsed(arguments)
    config = convert(composed(words.model, words.overrides))
    from rankdistill.commands import update_report
    from rankdistill.online.follow import follow
    from rankdistill.online.origin import Origin
    from rankdistill.online.update import open_published, roll_back, run_update

    origin = Origin.find(Path(config.model))
    published = open_published(config, origin)
    if words.versions:
        update_report.print_versions(published)
        return 0
    if words.follow:
        follow(config, origin, published, update_report.print_outcome)
        return 0
    if (words.prune or words.rollback is not None) and published.current() is None:
        raise ConfigError(f"published={published.folder}: nothing is published there")
    with published.locked():
        if words.rollback is not None:
            update_report.print_version(
                roll_back(config, origin, published, int(words.rollback) if words.rollback else None)
            )
            return 0
        if words.prune:
            update_report.print_pruned(published.prune(config.keep))
            return 0
        update_report.print_origin(origin)
        outcome = run_update(config, origin, published)
    update_report.print_outcome(outcome)
    return REFUSED if outcome.what in ("refused", "set aside") else 0


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rankdistill").setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # what cannot be told ends no work
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    try:
        if odd := [each for each in sys.argv if each != each.encode(errors="replace").decode()]:
            raise ConfigError(f"{os.fsencode(odd[0])!r}: no UTF-8; give a link to it that has another name")
        sys.exit(run(sys.argv[1:]))
    except BrokenPipeError:  # distill-update --versions | head
        mute()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(MISTAKE)
    except Exception as error:
        problem = write_problem(error, paths_among(sys.argv[1:]))
        if problem is None:
            raise
        sys.stderr.write(f"{problem}\n")
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was published")
