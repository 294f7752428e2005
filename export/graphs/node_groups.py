"""Names for groups of a graph's weights: by layer and by role, as `bert_graph` names its nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from rankdistill.export.errors import GraphError

# roles of a layer, each with the linear maps that play it
ROLES = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention_output": ("attention.output.dense",),
    "intermediate": ("intermediate.dense",),
    "output": ("output.dense",),
}
TOKENS = ("attention.self.key", "attention.self.value")  # what attention computes of every token
LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.(.+)\.product")
EMBEDDINGS, POOLER, CLASSIFIER = "embeddings", "pooler", "classifier"
ENDS = {"bert.pooler.dense.product": POOLER, "classifier.product": CLASSIFIER}
WORDS = "words"  # the look-up of word vectors


def group_of(node: str) -> str:
    """Return the group of a node with weights: "layer.0.output", "pooler"; "embeddings" before the layers."""
    if found := LAYER.fullmatch(node):
        number, part = found.groups()
        for role, parts in ROLES.items():
            if part in parts:
                return f"layer.{number}.{role}"
    return ENDS.get(node, EMBEDDINGS)


def group_names(layers: int) -> list[str]:
    """Return the groups of a graph with so many layers, from the input to the output."""
    inner = [f"layer.{number}.{role}" for number in range(layers) for role in ROLES]
    return [EMBEDDINGS, *inner, POOLER, CLASSIFIER]


def is_keyless(layers: int, split_layers: int) -> bool:
    """Return whether a last layer that is computed for [CLS] alone attends without keys and values of its tokens.

    A single query does not need them. Where they are what a split ranker keeps of an item, they are there.

    Args:
        layers: of the ranker.
        split_layers: how many of them read query and item apart.
    """
    return split_layers == 0 or split_layers < layers - 1


def node_names(layers: int, *, keyless: bool) -> list[str]:
    """Return the nodes that `bert_graph` gives a graph with so many layers and that can take 8 bits.

    Args:
        layers: of the ranker.
        keyless: whether the last one attends without keys and values, see `is_keyless`.
    """
    prefix = "bert.encoder.layer"
    inner = [
        f"{prefix}.{number}.{part}.product" for number in range(layers) for parts in ROLES.values() for part in parts
    ]
    if keyless:
        inner = [name for name in inner if name not in {f"{prefix}.{layers - 1}.{part}.product" for part in TOKENS}]
    return [WORDS, *inner, *ENDS]


def unknown(patterns: Iterable[str], nodes: Sequence[str]) -> list[str]:
    """Return the patterns that name neither one of the nodes nor one of their groups."""
    return [pattern for pattern in patterns if not _matching(pattern, nodes)]


def excluded(patterns: Iterable[str], nodes: Sequence[str]) -> dict[str, str]:
    """Return the nodes that patterns name, each with its pattern.

    Args:
        patterns: names or globs (`fnmatch`) of nodes or of groups.
        nodes: of the graph, those that can take 8 bits.

    Raises:
        GraphError: if a pattern names nothing.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        named = _matching(pattern, nodes)
        if not named:
            groups = ", ".join(dict.fromkeys(group_of(node) for node in nodes))
            raise GraphError(
                f"quantize.exclude={pattern}: allowed are nodes, or of the groups {groups}, or globs of them"
            )
        found |= {node: pattern for node in named if node not in found}
    return found


def _matching(pattern: str, nodes: Sequence[str]) -> list[str]:
    return [node for node in nodes if fnmatchcase(node, pattern) or fnmatchcase(group_of(node), pattern)]
