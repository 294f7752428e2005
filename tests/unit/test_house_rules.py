"""The three rules of the architecture, and what the package says of itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "optimum", "datasets", "hydra", "omegaconf", "onnx", "scipy", "pyarrow")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "export").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_export_never_imports_what_makes_a_student(path):
    ours = [name for name in imports(path) if name.split(".")[0] == "rankdistill"]
    assert not [name for name in ours if not f"{name}.".startswith("rankdistill.export.")]


def test_only_the_edge_knows_hydra():
    found = {
        path.relative_to(ROOT / "distill").parts[0]
        for path in (ROOT / "distill").rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    }
    assert found == {"commands", "options", "sweep"}  # Hydra's plugins are sweepers and launchers


def test_the_runtime_works_where_the_training_stack_cannot_be_imported():
    paths = (ROOT / "export/runtime").rglob("[a-z]*.py")
    modules = [".".join(["rankdistill", *path.relative_to(ROOT).with_suffix("").parts]) for path in paths]
    assert len(modules) >= 20
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top, _, rest = name.partition('.')
        if top in {HEAVY!r} or rest.split('.')[0] not in ('', 'export') and top == 'rankdistill':
            raise ImportError(name + ' must not be imported here')
sys.meta_path.insert(0, Refuse())
import {", ".join(modules)}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_command_line_loads_nothing_heavy_before_it_has_validated():
    code = (
        f"import sys, rankdistill.commands.distill; print(sorted(set({HEAVY[:5]!r}) - {{'hydra'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_package_is_listed_in_pyproject():
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"export"}  # the path of before
    for top, prefix in (("distill", "rankdistill"), ("export", "rankdistill.export"), ("conf", "rankdistill.conf")):
        for path in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([prefix, *path.parent.relative_to(ROOT / top).parts]))
    found.remove("rankdistill.deprecated_export")
    assert listed == found


def test_every_metric_of_a_budget_is_told_in_the_readme():
    from rankdistill.export.gate.budget import METRICS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in text] == []


def test_annotations_are_offered_to_type_checkers():
    for package in ("distill", "export"):
        assert (ROOT / package / "py.typed").is_file()
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text()


def test_every_option_of_conf_is_told_in_the_documents():
    text = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    groups = (
        "data teacher warm augment student loss train quantize cascade embed measure budget track experiment".split()
    )
    nested = {"defaults", "name", *groups, "fit", "terms"}  # told by what is in them
    for group in groups:
        for path in (ROOT / "conf" / group).rglob("*.yaml"):
            if path.parent.name == group:
                assert f"`{path.stem}`" in text, f"docs/options.md does not name {group}={path.stem}"
            for option in set(yaml.safe_load(path.read_text()) or {}) - nested:
                told = f"`{option}`" in text or f"`{option}." in text
                assert told, f"docs/options.md does not name {group}.{option}"


# What is not of transformers' public interface and may go with any release; each is had nowhere else.
OF_TRANSFORMERS = {
    "transformers.models.bert.modeling_bert.BertSelfAttention",  # its projections, which attention here is written with
    "transformers.modeling_outputs.SequenceClassifierOutput",  # what a forward gives the Trainer
    "transformers.integrations.TensorBoardCallback",  # the Trainer asks it for no folder of its own
    "transformers.utils.logging",  # its bars
    "._attn_implementation",  # eager or sdpa: the configuration tells it under no other name
}


def private_names(path: Path) -> set[str]:
    """Return what a file that imports transformers takes from its modules, and names that begin with an underscore."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    from_modules = [
        (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformers"
        for alias in node.names
    ]
    if not from_modules:
        return set()
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in ("self", "cls")}
    attributes = {
        f".{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if not (isinstance(node.value, ast.Name) and node.value.id in own)
    }
    return {f"{module}.{name}" for module, name in from_modules if module != "transformers"} | attributes


def test_what_is_taken_of_the_inside_of_transformers_is_listed():
    found = set.union(*(private_names(path) for top in ("distill", "export") for path in (ROOT / top).rglob("*.py")))
    assert found == OF_TRANSFORMERS
