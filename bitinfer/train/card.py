"""The model card: what a reader who is handed the output folder has to know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitinfer.files import write_file
from bitinfer.train.markdown import (
    code,
    data_table,
    duration,
    fence,
    metric_text,
    notes,
    recipe,
    result_table,
    size_text,
)

if TYPE_CHECKING:
    from bitinfer.train.report import TrainingReport

__all__ = ["model_card", "write_card"]

_MOST_LABELS = 20


def model_card(
    report: TrainingReport,
    *,
    name: str,
    licence: str | None = None,
    terms: str | None = None,
    limits: Sequence[str] = (),
    origin: Sequence[str] = (),
    tests: Sequence[str] = (),
) -> str:
    """What the model is, data, terms, recipe, accuracy and limits, as Markdown.

    Nothing is guessed: what was not given is said not to be stated.

    Args:
        report: of the run that made the model.
        name: what to call the model.
        licence: of the model, in the user's words.
        terms: under which the data and the teacher were had, in the user's words.
        limits: sentences to add to those that hold for every such model.
        origin: paragraphs to put before the recipe, such as where the teacher came from.
        tests: paragraphs on what was measured on other rows than those of dev.
    """
    sections = [
        f"# {' '.join(name.split())}",
        _what(report),
        _use(report),
        "## Data",
        data_table(report),
        "## Licence and terms",
        _terms(licence, terms),
        "## Recipe",
        *origin,
        recipe(report),
        _made(report),
        "## Accuracy" if report.metric == "accuracy" else "## Correlation",
        _accuracy(report),
        result_table(report),
        *notes(report),
        *tests,
        "## Limits",
        "\n".join(f"- {each}" for each in (*_limits(report), *limits)),
    ]
    return "\n\n".join(sections) + "\n"


def write_card(
    folder: Path,
    report: TrainingReport,
    *,
    name: str,
    licence: str | None = None,
) -> None:
    """Write `model_card` as ``README.md``, complete or not at all, in place of one that is there.

    Raises:
        OSError: It cannot be written.
    """
    card = model_card(report, name=name, licence=licence)
    write_file(folder / "README.md", card.encode(), overwrite=True)


def _what(report: TrainingReport) -> str:
    sizes = report.architecture
    if report.packed is not None:
        kind = "A fully binarized BERT (BiT, 1-1-1: one bit for weights, embeddings, activations)"
        size = f", {size_text(report.packed.bytes)} packed"
    else:
        bits = report.stages[-1].bits if report.stages else "32-32-32"
        kind = "A float BERT" if bits == "32-32-32" else f"A BERT of {bits} bits"
        size = f", {size_text(report.float_bytes)}"
    given = "a pair of texts" if report.pairs else "a text"
    return (
        f"{kind} of {sizes.layers} layers x {sizes.hidden}, {sizes.heads} heads, intermediate "
        f"{sizes.intermediate}, vocabulary of {sizes.vocab:,}{size}. It gives {given} "
        f"{_answer(report.labels)}"
    )


def _answer(labels: Sequence[str]) -> str:
    if not labels:
        return "a number (regression)."
    shown = ", ".join(code(label) for label in labels[:_MOST_LABELS])
    more = "" if len(labels) <= _MOST_LABELS else ", ..."
    return f"one of {len(labels)} labels: {shown}{more}."


def _use(report: TrainingReport) -> str:
    if report.packed is None:
        if report.command == "distill":
            return (
                "Made with bitinfer, whose engine runs only models of 1-1-1 bits, and not this one."
            )
        return "Made with bitinfer; to be read with transformers, or to be distilled to one bit."
    arguments = '"one text", "another"' if report.pairs else '"some text"'
    call = f'bitinfer.load("{report.packed.file}").predict({arguments})'
    return fence(f"import bitinfer\n\n{call}", "python")


def _terms(licence: str | None, terms: str | None) -> str:
    model = " ".join((licence or "").split()) or "not stated"
    data = " ".join((terms or "").split()) or "not stated"
    return (
        f"- Licence of the model, as its maker says: {model}.\n"
        f"- Terms of the data and of the model it started from: {data}."
    )


def _made(report: TrainingReport) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in sorted(report.versions.items()))
    return (
        f"{duration(report.seconds)} on {report.machine}, begun or last resumed {report.started}; "
        f"{versions}. Everything that was measured on the way is in `report.json`."
    )


def _accuracy(report: TrainingReport) -> str:
    dev = report.data["dev"]
    noun = report.metric if report.metric == "accuracy" else "Pearson correlation"
    if report.packed is not None:
        packed = report.packed
        value = metric_text(report.metric, packed.value, packed.standard_error)
        said = f"{noun} **{value}** on the {packed.count:,} rows of {code(dev.name)}"
        said += ", measured with the packed engine"
    else:
        best = report.stages[-1].best if report.stages else float("nan")
        value = metric_text(report.metric, best, report.standard_error)
        said = f"{noun} **{value}** on the {dev.rows:,} rows of "
        said += f"{code(dev.name)}, measured in PyTorch"
    if report.teacher is not None:
        value = metric_text(report.metric, report.teacher.value)
        said += f"; its float teacher {code(report.teacher.name)} reaches {value} there"
    return f"{said[0].upper()}{said[1:]}."


def _limits(report: TrainingReport) -> list[str]:
    looks = sum(len(stage.points) for stage in report.stages)
    limits = [
        f"The dev rows chose which steps were kept ({looks} measurements in all): on rows that had "
        "no part in it, expect a little less.",
        f"It knows the kind of text it was trained on; texts are cut to "
        f"{report.architecture.max_length} tokens.",
    ]
    if report.packed is not None:
        limits.append(
            "One bit costs accuracy: where the difference to the teacher above matters, use the "
            "teacher."
        )
    return limits
