"""What a training run leaves for people: the model card, which is its report too, and the plot.

Nothing on the card is guessed: what was not given is said not to be stated.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitinfer.files import write_file
from bitinfer.train.options import names_of
from bitinfer.train.report import (
    TrainingReport,
    code,
    duration,
    fence,
    size_text,
    table,
    write_report,
)

# What is of no use to who does it again.
_NOT_RECIPE = {"resume", "show_progress_bar"}
_MOST_LABELS = 20
_LICENCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")

_LIMITS = (
    "The dev rows chose which steps were kept ({looks} measurements in all): on rows that had no "
    "part in it, expect a little less.",
    "It knows the kind of text it was trained on; texts are cut to {length} tokens.",
    "So few bits cost accuracy: where the difference to the teacher above matters, use the "
    "teacher.",
)


def write_pages(folder: Path, report: TrainingReport, *, name: str, licence: str | None) -> None:
    """Write ``report.json``, the card ``README.md``, and the plot if it is wanted.

    The same report gives the same files, byte for byte.
    """
    write_report(folder, report)
    card = model_card(report, name=name, licence=licence)
    write_file(folder / "README.md", card.encode(), overwrite=True)
    if report.options.get("plot"):
        from bitinfer.train.plot import as_svg

        write_file(folder / "report.svg", as_svg(report), overwrite=True)


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

    It begins with what the Hugging Face hub reads of a card, as YAML.  Licence and terms, those of
    the data and the teacher, are in the user's words; ``origin`` are paragraphs to put before the
    recipe, ``tests`` on what was measured on other rows than dev.
    """
    name, licence, terms = (" ".join((each or "").split()) for each in (name, licence, terms))
    looks = sum(len(stage.points) for stage in report.stages)
    kept = _LIMITS if report.packed is not None else _LIMITS[:2]
    own = [each.format(looks=looks, length=report.architecture["max_length"]) for each in kept]
    parts = [
        f"---\n{_front(report, name, licence)}---",
        f"# {name}",
        _what(report),
        _use(report),
        "## Data",
        _data(report),
        "## Licence and terms",
        f"- Licence of the model, as its maker says: {licence or 'not stated'}.\n"
        f"- Terms of the data and of the model it started from: {terms or 'not stated'}.",
        "## Recipe",
        *(*origin, recipe(report), _made(report)),
        "## Accuracy" if report.metric == "accuracy" else "## Correlation",
        *(_accuracy(report), report.table()),
        *(["![dev metric against steps](report.svg)"] if report.options.get("plot") else []),
        *(*report.notes(), *tests),
        "## Limits",
        "\n".join(f"- {each}" for each in (*own, *limits)),
    ]
    return "\n\n".join(parts) + "\n"


def recipe(report: TrainingReport) -> str:
    """The command that does it again, or the call where a command cannot say it."""
    given = {
        name: value
        for name in names_of(report.command)
        if name not in _NOT_RECIPE and (value := report.options.get(name)) is not None
    }
    lists = [value for value in given.values() if isinstance(value, (list, tuple))]
    in_memory = any(isinstance(value, dict) for value in given.values())
    if in_memory or any("," in str(each) for value in lists for each in value):
        # Rows that were in memory stand under the name of their argument.
        words = [
            f"    {name}={name if isinstance(value, dict) else repr(value)},\n"
            for name, value in given.items()
        ]
        return fence(f"bitinfer.train.{report.command}(\n{''.join(words)})", "python")
    words = ["bitinfer", report.command]
    for name, value in given.items():
        words += [value] if name in ("teacher", "encoder") else option_words(name, value)
    return fence(shlex.join(words), "sh")


def option_words(name: str, value: Any) -> list[str]:
    """An argument of a function as the words of a command; those that are off need none."""
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if value is False:
        return ["--no-bf16"] if name == "bf16" else []
    word = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    # Text that looks like an option has to be tied to its own.
    return [f"{option}={word}"] if word.startswith("-") else [option, word]


def _data(report: TrainingReport) -> str:
    rows = [
        (name, code(file.name), f"{file.rows:,}", code(file.sha256))
        for name in ("train", "unlabelled", "dev")
        if (file := report.data.get(name)) is not None
    ]
    return table(("data", "file", "rows", "SHA-256"), rows, "llrl")


def _made(report: TrainingReport) -> str:
    """When, where and with what, and what the run found out."""
    versions = ", ".join(f"{key} {value}" for key, value in sorted(report.versions.items()))
    others = sorted(report.options.keys() - names_of(report.command))
    found = "; ".join(f"{key}: {code(json.dumps(report.options[key]))}" for key in others)
    return (
        f"{duration(report.seconds)} on {report.machine}, begun or last resumed {report.started}; "
        f"{versions}.{f' Found: {found}.' if found else ''} Everything that was measured on the "
        "way is in `report.json`."
    )


def _accuracy(report: TrainingReport) -> str:
    noun, dev, text = report.measured.title, report.data["dev"], report.measured.text
    where = "in PyTorch" if report.packed is None else "with the packed engine"
    said = (
        f"{noun[0].upper()}{noun[1:]} **{text(report.value, report.standard_error)}** on the "
        f"{dev.rows:,} rows of {code(dev.name)}, measured {where}"
    )
    if report.teacher is not None:
        name, value = code(report.teacher.name), text(report.teacher.value)
        said += f"; its float teacher {name} reaches {value} there"
    return f"{said}."


def _front(report: TrainingReport, name: str, licence: str) -> str:
    """What the hub reads: each value as JSON, which YAML contains."""
    lines: dict[str, Any] = {}
    if _LICENCE_ID.fullmatch(licence):
        lines["license"] = licence.lower()
    elif licence:
        lines |= {"license": "other", "license_name": licence}
    packed, dev = report.packed is not None, report.data["dev"].name
    lines["library_name"] = "bitinfer" if packed else "transformers"
    lines["pipeline_tag"] = "text-classification"
    lines["tags"] = ["bert", *(["binarized", "quantized", report.bits] if packed else [])]
    if math.isfinite(report.value):
        result = {
            "task": {"type": "text-classification"},
            "metrics": [{"type": report.metric, "value": report.value}],
            "dataset": {"name": dev, "type": dev, "split": "validation"},
        }
        lines["model-index"] = [{"name": name, "results": [result]}]
    return "".join(f"{key}: {json.dumps(each)}\n" for key, each in lines.items())


def _what(report: TrainingReport) -> str:
    sizes, labels = report.architecture, report.labels
    size = size_text(report.float_bytes)
    if report.packed is not None:
        kind = f"A binarized BERT (BiT, {report.bits}: bits of weights, embeddings, activations)"
        size = f"{size_text(report.packed.bytes)} packed"
    else:
        kind = "A float BERT" if report.bits == "32-32-32" else f"A BERT of {report.bits} bits"
    answer = "a number (regression)"
    if labels:
        shown = ", ".join(map(code, labels[:_MOST_LABELS]))
        answer = f"one of {len(labels)} labels: {shown}{', ...' * (len(labels) > _MOST_LABELS)}"
    return (
        f"{kind} of {sizes['layers']} layers x {sizes['hidden']}, {sizes['heads']} heads, "
        f"intermediate {sizes['intermediate']}, vocabulary of {sizes['vocab']:,}, {size}. It gives "
        f"{'a pair of texts' if report.pairs else 'a text'} {answer}."
    )


def _use(report: TrainingReport) -> str:
    if report.packed is None:
        return "Made with bitinfer; to be read with transformers, or to be distilled to one bit."
    arguments = '"one text", "another"' if report.pairs else '"some text"'
    call = f'bitinfer.load("{report.packed.file}").predict({arguments})'
    return fence(f"import bitinfer\n\n{call}", "python")
