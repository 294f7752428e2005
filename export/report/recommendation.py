"""What a run came to: whether its student is worth serving in place of the best baseline. Decided here alone.

The one rule for terminal, page, card, tables, trackers, bundles and gate. nDCG@10 decides, in pairs over the same
queries; `interval` is that of the mean difference.

- not_recommended: a baseline, which costs next to nothing, is surely better than the student or than its teacher; or
  student or teacher give most lists one score, so that their nDCG is that of the order in which candidates lie.
- not_shown: there is no baseline, there are too few queries, or some interval touches 0.
- recommended: the student is surely above every baseline. Above the best alone is not enough: the best by its mean may
  be the best by chance, and one who serves another would not be better off. All must hold, each at the stated
  confidence, so that the claim as a whole is wrong no more often than that (an intersection-union test, Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankdistill.export.measure.intervals import LEAST_QUERIES

RECOMMENDED, NOT_SHOWN, NOT_RECOMMENDED = "recommended", "not_shown", "not_recommended"
WORST_FIRST = (NOT_RECOMMENDED, NOT_SHOWN, RECOMMENDED)
ALLOWABLE = (NOT_SHOWN, NOT_RECOMMENDED)  # what a budget may let through
MOST_TIED = 0.5  # share of lists with one score for all candidates, above which a model ranks nothing
TEACHER, STUDENT = "teacher", "student"
MAIN = "ndcg@10"
CHANCE = 0.5  # pair accuracy of scores that are all the same: a tie counts half

BETTER_TEACHER = "train a better teacher (warm=similarity or warm=histories, more labels)"
BETTER_STUDENT = "serve {} instead, or distill anew (more pairs, a larger student)"
MORE_EVIDENCE = "take more queries, or a better teacher"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Recommendation:
    """What a run came to.

    Attributes:
        status: recommended, not_shown or not_recommended.
        sentence: that in plain words, with the numbers.
        baseline: the one that decided; None without one.
        difference: in nDCG@10 to it, of the student, or of the teacher where that decided; None without one.
        interval: of the difference; None without one.
    """

    status: str
    sentence: str
    baseline: str | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, content: Any) -> Recommendation | None:
        """Return what `as_dict` wrote, None of anything else."""
        if not isinstance(content, Mapping) or content.get("status") not in WORST_FIRST:
            return None
        sentence, baseline = content.get("sentence"), content.get("baseline")
        if not isinstance(sentence, str) or not sentence or not isinstance(baseline, str | None):
            return None
        return cls(content["status"], sentence, baseline, _number(content.get("difference")), _ends(content))

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "status": self.status,
            "sentence": self.sentence,
            "baseline": self.baseline,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
        }

    def says(self, comparison: Row) -> bool:
        """Return whether it already tells of a comparison."""
        name = str(comparison.get("name", "")).partition(" - ")[2]
        return self.interval is not None and (name, _ends(comparison)) == (self.baseline, self.interval)


def recommend(rows: Sequence[Row], comparisons: Sequence[Row], queries: int | None) -> Recommendation:
    """Decide what a run came to.

    Args:
        rows: of the table; with model, engine, precision, ndcg@10, and `tied`, or tau and pair_accuracy.
        comparisons: name ("student int8 - bm25", "teacher - bm25"), difference and interval of each.
        queries: that quality was measured on; None if it is not known.
    """
    student = served_student(rows)
    if student is None:
        return Recommendation(NOT_SHOWN, "not shown: no student was measured")
    for row in (*[row for row in rows if row["model"] == TEACHER][:1], student):
        if (share := tied(row)) > MOST_TIED:
            return Recommendation(NOT_RECOMMENDED, _constant(row, share))
    baselines = [row for row in rows if is_baseline(row) and _number(row.get(MAIN)) is not None]
    if not baselines:
        told = f"{_scored(student)}, and no baseline was measured to compare it with"
        return Recommendation(NOT_SHOWN, f"not shown: {told}")
    best_first = sorted(baselines, key=lambda row: -row[MAIN])
    if queries is None or queries < LEAST_QUERIES:
        number = "an unknown number of" if queries is None else f"{queries:.0f}"
        told = f"{number} queries are too few to tell, at least {LEAST_QUERIES} are needed"
        best = f"{best_first[0]['model']}, the best baseline, {best_first[0][MAIN]:.3f}"
        return Recommendation(NOT_SHOWN, f"not shown: {told}; {_scored(student)} and {best}", best_first[0]["model"])
    return _held_against(best_first, student, rows, comparisons)


def recommendation_of(tradeoff: Row) -> Recommendation:
    """Return a run's verdict as its tradeoff.json says it; one from before there were verdicts is judged now.

    Args:
        tradeoff: content of tradeoff.json, whose comparisons may be missing or damaged.
    """
    written = Recommendation.of(tradeoff.get("verdict"))
    if written is not None:
        return written
    comparisons = tradeoff.get("comparisons")
    usable = [each for each in comparisons if isinstance(each, Mapping)] if isinstance(comparisons, list) else []
    queries = _number(tradeoff.get("queries"))
    return recommend(tradeoff["rows"], usable, None if queries is None else int(queries))


def worse(one: Recommendation, other: Recommendation) -> Recommendation:
    """Return the worse of two; of equals the first."""
    return min(one, other, key=lambda each: WORST_FIRST.index(each.status))


def unmeasured(what: str) -> Recommendation:
    """Return what is said where there is nothing to judge by.

    Args:
        what: why, as in "the updated student was not measured".
    """
    return Recommendation(NOT_SHOWN, f"not shown: {what}")


def headline(sentence: str) -> str:
    """Return a verdict's sentence as the first line of a page: with a capital letter and a full stop."""
    return f"{sentence[:1].upper()}{sentence[1:]}."


def served_student(rows: Sequence[Row]) -> Row | None:
    """Return the row of the student that a bundle serves, in onnxruntime; the last of any engine without one."""
    students = [row for row in rows if row["model"] == STUDENT]
    served = [row for row in students if row.get("engine") == "onnxruntime"]
    return next(iter([*served[-1:], *students[-1:]]), None)


def is_baseline(row: Row) -> bool:
    """Return whether a row is of a ranker that nobody had to train for the data: popularity, BM25, embedding."""
    return row["model"] not in (TEACHER, STUDENT)


def tied(row: Row) -> float:
    """Return the share of the lists in which a row's model gave every candidate one score.

    A row from before this was recorded tells it only of all lists at once: no agreement, and a pair accuracy of .5.
    """
    share = _number(row.get("tied"))
    if share is not None:
        return share
    alike = "tau" in row and _number(row["tau"]) is None and row.get("pair_accuracy") == CHANCE
    return 1.0 if alike else 0.0


def _held_against(
    best_first: Sequence[Row], student: Row, rows: Sequence[Row], comparisons: Sequence[Row]
) -> Recommendation:
    """Decide by the intervals; of several baselines that a verdict rests on the best is told."""
    known = {str(each.get("name")): each for each in comparisons if _ends(each) and _known(each)}
    own = [(row, known.get(f"{STUDENT} {student.get('precision')} - {row['model']}")) for row in best_first]
    teacher = next((row for row in rows if row["model"] == TEACHER), None)
    if teacher is not None:
        for row in best_first:
            found = known.get(f"{TEACHER} - {row['model']}")
            if found is not None and found["interval"][1] < 0:
                return _not_recommended("the teacher", teacher, row, found, BETTER_TEACHER)
    for row, found in own:
        if found is not None and found["interval"][1] < 0:
            return _not_recommended(_name(student), student, row, found, BETTER_STUDENT.format(row["model"]))
    for row, found in own:
        if found is None:
            return unmeasured(f"{_scored(student)}, and was not compared with {row['model']} ({row[MAIN]:.3f})")
        if not found["interval"][0] > 0:
            return _unsure(student, row, found, best=row is best_first[0])
    row, found = own[0]
    assert found is not None
    (low, high), difference = found["interval"], found["difference"]
    told = f"{_scored(student)}, {difference:.3f} [{low:.3f}, {high:.3f}] above {row['model']}, the best baseline"
    return _decided(RECOMMENDED, f"recommended: {told}", row, found)


def _not_recommended(name: str, model: Row, row: Row, found: Row, hint: str) -> Recommendation:
    (low, high), difference = found["interval"], found["difference"]
    below = f"{-difference:.3f} [{-high:.3f}, {-low:.3f}]"
    told = f"{name} ({_score(model)}) is below {row['model']} ({row[MAIN]:.3f}) by {below}; {hint}"
    return _decided(NOT_RECOMMENDED, f"not recommended: {told}", row, found)


def _unsure(student: Row, row: Row, found: Row, *, best: bool) -> Recommendation:
    (low, high), difference = found["interval"], found["difference"]
    which = "the best baseline, " if best else ""
    told = f"is not surely above {row['model']}, {which}{row[MAIN]:.3f}: {difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    return _decided(NOT_SHOWN, f"not shown: {_scored(student)}, and {told}; {MORE_EVIDENCE}", row, found)


def _decided(status: str, sentence: str, row: Row, found: Row) -> Recommendation:
    return Recommendation(status, sentence, row["model"], _number(found["difference"]), _ends(found))


def _constant(row: Row, share: float) -> str:
    name, hint = ("the teacher", BETTER_TEACHER) if row["model"] == TEACHER else (_name(row), "distill anew")
    lists = "every list" if share == 1 else f"{100 * share:.0f}% of the lists"
    return f"not recommended: {name} ranks nothing: in {lists} all candidates have one score; {hint}"


def _scored(student: Row) -> str:
    return f"{_name(student)} has nDCG@10 {_score(student)}"


def _score(row: Row) -> str:
    value = _number(row.get(MAIN))
    return "unknown" if value is None else f"{value:.3f}"


def _name(row: Row) -> str:
    return " ".join(str(part) for part in (row["model"], row.get("engine"), row.get("precision")) if part)


def _known(comparison: Row) -> bool:
    return comparison.get("metric", MAIN) == MAIN and _number(comparison.get("difference")) is not None


def _ends(content: Row) -> tuple[float, float] | None:
    """Return both ends of an interval, None unless both are numbers."""
    interval = content.get("interval")
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        return None
    low, high = map(_number, interval)
    return None if low is None or high is None else (low, high)


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None
