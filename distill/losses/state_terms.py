"""The terms of a loss that compare states: which layers they compare, and what they ask of student and teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankdistill.errors import ConfigError
from rankdistill.options import Attention, Config, Embedding, Hidden, Relations, StateTerm, Term
from rankdistill.options.ranges import problem
from rankdistill.options.student_width import Width, freezes, student_width

UNIFORM = "uniform"


@dataclass(frozen=True)
class Shape:
    """What of a BERT the terms ask for."""

    layers: int
    hidden_size: int
    heads: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Return the shape that a config.json tells."""
        return cls(config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"])


def state_terms(terms: Mapping[str, Term]) -> dict[str, StateTerm]:
    """Return those that compare states, without those of weight 0."""
    return {name: term for name, term in terms.items() if isinstance(term, StateTerm) and term.weight > 0}


def score_terms(terms: Mapping[str, Term]) -> dict[str, Term]:
    """Return those that compare scores, without those of weight 0."""
    return {name: term for name, term in terms.items() if not isinstance(term, StateTerm) and term.weight > 0}


def mapped_layers(layer_map: str | Sequence[int], student_layers: int, teacher_layers: int) -> list[int]:
    """Return the teacher's layer, from 0, that each of the student's layers is compared with.

    `uniform` is the map of TinyBERT, Jiao et al. 2020, section 4.1: layer m of M, counted from 1, with layer m N / M of
    N, rounded, halves up.
    """
    if isinstance(layer_map, str):
        return [
            (2 * layer * teacher_layers + student_layers) // (2 * student_layers) - 1
            for layer in range(1, student_layers + 1)
        ]
    return list(layer_map)


def validate_states(config: Config, teacher: Mapping[str, Any]) -> None:
    """Check the terms on states against the teacher's config.json, before anything is made.

    Raises:
        ConfigError: with a line for each option that cannot be.
    """
    terms, theirs = state_terms(config.loss.terms), Shape.of(teacher)
    width = student_width(config.student, Width.of(teacher))
    layers = config.student.layers if isinstance(config.student.layers, int) else len(config.student.layers)
    found = [*problems(terms, Shape(layers, width.hidden_size, width.heads), theirs)]
    told = config.student.freeze_embeddings
    for name, term in terms.items():
        if isinstance(term, Embedding) and freezes(told, width.hidden_size, theirs.hidden_size):
            allowed = f"false with loss.terms.{name}, which trains them"
            found.append(problem("student.freeze_embeddings", told, allowed))
    if found:
        raise ConfigError("\n".join(found))


def problems(terms: Mapping[str, StateTerm], student: Shape, teacher: Shape) -> Iterator[str]:
    """Yield a line for each option of the terms that does not fit the two models."""
    for name, term in terms.items():
        option = f"loss.terms.{name}"
        if isinstance(term, (Hidden, Attention)) and not isinstance(term.layer_map, str):
            yield from _map_problems(f"{option}.layer_map", term.layer_map, student, teacher)
        if isinstance(term, Attention) and student.heads != teacher.heads:
            allowed = f"{teacher.heads}, the teacher's number of heads, with {option}"
            yield problem("student.heads", student.heads, allowed)
        if isinstance(term, Relations):
            yield from _relation_problems(option, term, student, teacher)


def _map_problems(option: str, layer_map: Sequence[int], student: Shape, teacher: Shape) -> Iterator[str]:
    if len(layer_map) != student.layers or max(layer_map) >= teacher.layers:
        allowed = f"{UNIFORM}, or {student.layers} of the teacher's layers 0 to {teacher.layers - 1}, one for each of "
        yield problem(option, layer_map, f"{allowed}the student's")


def _relation_problems(option: str, term: Relations, student: Shape, teacher: Shape) -> Iterator[str]:
    if student.hidden_size % term.heads or teacher.hidden_size % term.heads:
        widths = f"the student's width {student.hidden_size} and the teacher's {teacher.hidden_size}"
        yield problem(f"{option}.heads", term.heads, f"a number that divides {widths}")
    if term.teacher_layer is not None and term.teacher_layer >= teacher.layers:
        yield problem(f"{option}.teacher_layer", term.teacher_layer, f"0 to {teacher.layers - 1}, or null for the last")
