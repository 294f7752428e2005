"""How wide a student is: what its options ask for, made whole by the teacher's proportions, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rankdistill.errors import ConfigError
from rankdistill.options import Student
from rankdistill.options.ranges import problem


@dataclass(frozen=True)
class Width:
    """The width of a BERT; `heads` divide `hidden_size`."""

    hidden_size: int
    heads: int
    intermediate_size: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Width:
        """Return it from a BERT's config.json."""
        return cls(int(config["hidden_size"]), int(config["num_attention_heads"]), int(config["intermediate_size"]))

    @property
    def head_size(self) -> int:
        """Dimensions of a head."""
        return self.hidden_size // self.heads


def student_width(student: Student, teacher: Width) -> Width:
    """Return a student's width: heads of the teacher's size and its share of neurons where the options are null.

    Whether there can be such a student, `validate_student` tells.
    """
    hidden = student.hidden_size
    heads, neurons = student.heads, student.intermediate_size
    if heads is None:
        heads = max(1, hidden // teacher.head_size)
    if neurons is None:
        neurons = max(1, round(teacher.intermediate_size * hidden / teacher.hidden_size))
    return Width(hidden, heads, neurons)


def head_counts(hidden_size: int, teacher: Width) -> list[int]:
    """Return the numbers of heads that a student of this hidden size can have, rising.

    They divide it, and heads are neither more nor larger than the teacher's.
    """
    return [
        heads
        for heads in range(1, teacher.heads + 1)
        if hidden_size % heads == 0 and hidden_size // heads <= teacher.head_size
    ]


def freezes(told: bool | None, hidden_size: int, teacher_hidden_size: int) -> bool:
    """Return whether a student's embeddings stay as they are: where not told, if they are the teacher's own.

    Those of a narrower student are parts of the teacher's, whose LayerNorm saw all of it: they have to learn.
    """
    return hidden_size == teacher_hidden_size if told is None else told


def validate_student(student: Student, teacher: Mapping[str, Any]) -> None:
    """Check the student against the teacher it is taken from.

    Args:
        student: its options.
        teacher: the teacher's config.json.

    Raises:
        ConfigError: if it asks for layers or a width that the teacher does not have.
    """
    problems = [*_layer_problems(student.layers, int(teacher["num_hidden_layers"]))]
    problems += _width_problems(student, Width.of(teacher))
    if problems:
        raise ConfigError("\n".join(problems))


def _layer_problems(layers: Any, most: int) -> Iterator[str]:
    if isinstance(layers, int) and layers > most:
        yield problem("student.layers", layers, f"1 to {most}, the teacher's layers")
    if isinstance(layers, list) and layers[-1] >= most:
        yield problem("student.layers", layers, f"layers from 0 to {most - 1}, the teacher's")


def _width_problems(student: Student, teacher: Width) -> Iterator[str]:
    width, size = student_width(student, teacher), teacher.head_size
    if width.hidden_size > teacher.hidden_size:
        yield problem("student.hidden_size", width.hidden_size, f"1 to {teacher.hidden_size}, the teacher's")
    elif student.heads is None and width.hidden_size % size:
        allowed = f"a multiple of the teacher's head size {size}, or another with student.heads"
        yield problem("student.hidden_size", width.hidden_size, allowed)
    elif width.heads not in (counts := head_counts(width.hidden_size, teacher)):
        allowed = " or ".join(map(str, counts)) or "none"
        yield problem(
            "student.heads", width.heads,
            f"{allowed}: a divisor of student.hidden_size={width.hidden_size}, with heads neither more nor larger than "
            f"the teacher's {teacher.heads} of {size}",
        )  # fmt: skip
    if width.intermediate_size > teacher.intermediate_size:
        allowed = f"1 to {teacher.intermediate_size}, the teacher's"
        yield problem("student.intermediate_size", width.intermediate_size, allowed)
