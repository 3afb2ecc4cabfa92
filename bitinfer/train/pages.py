"""What a training run leaves for people: ``report.md``, the plot, and the model card.

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
from bitinfer.train.markdown import code, duration, fence, size_text, table
from bitinfer.train.options import names_of
from bitinfer.train.report import TrainingReport, write_report

__all__ = ["model_card", "option_words", "recipe", "report_page", "write_pages"]

# What is of no use to who does it again.
_NOT_RECIPE = {"resume", "show_progress_bar"}
_MOST_LABELS = 20
_LICENCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")

_REPORT = """\
# Report of bitinfer {command}

{results}
{plot}
## How it was made

{recipe}

{data}

- Started, or last resumed, {started}, {time} in all.
- Machine: {machine}.
- Versions: {versions}.
{found}"""

_CARD = """\
---
{front}---

# {name}

{what}

{use}

## Data

{data}

## Licence and terms

- Licence of the model, as its maker says: {licence}.
- Terms of the data and of the model it started from: {terms}.

## Recipe

{recipe}

{time} on {machine}, begun or last resumed {started}; {versions}. Everything that was measured on \
the way is in `report.json`.

## {heading}

{accuracy}

{results}

## Limits

{limits}
"""


def write_pages(folder: Path, report: TrainingReport, *, name: str, licence: str | None) -> None:
    """Write ``report.json``, ``report.md``, the card ``README.md``, and the plot if it is wanted.

    The same report gives the same files, byte for byte.

    Raises:
        OSError: A file cannot be written.
        UnsupportedError: A plot is wanted, and matplotlib is not installed.
    """
    write_report(folder, report)
    write_file(folder / "report.md", report_page(report).encode(), overwrite=True)
    card = model_card(report, name=name, licence=licence)
    write_file(folder / "README.md", card.encode(), overwrite=True)
    if report.options.get("plot"):
        from bitinfer.train.plot import as_svg

        write_file(folder / "report.svg", as_svg(report), overwrite=True)


def report_page(report: TrainingReport) -> str:
    """The whole of ``report.md``."""
    known = names_of(report.command)
    found = {key: value for key, value in sorted(report.options.items()) if key not in known}
    return _REPORT.format(
        command=report.command,
        results=_paragraphs(report.table(), *report.notes()),
        plot="\n![dev metric against steps](report.svg)\n" if report.options.get("plot") else "",
        found="".join(f"- {key}: {code(json.dumps(value))}\n" for key, value in found.items()),
        recipe=recipe(report),
        **_made(report),
    )


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

    It begins with what the Hugging Face hub reads of a card, as YAML.

    Args:
        report: of the run that made the model.
        name: what to call the model.
        licence: of the model, in the user's words.
        terms: under which the data and the teacher were had, in the user's words.
        limits: sentences to add to those that hold for every such model.
        origin: paragraphs to put before the recipe, such as where the teacher came from.
        tests: paragraphs on what was measured on other rows than those of dev.
    """
    name, licence = " ".join(name.split()), " ".join((licence or "").split())
    return _CARD.format(
        front=_front(report, name, licence),
        name=name,
        what=_what(report),
        use=_use(report),
        licence=licence or "not stated",
        terms=" ".join((terms or "").split()) or "not stated",
        recipe=_paragraphs(*origin, recipe(report)),
        heading="Accuracy" if report.metric == "accuracy" else "Correlation",
        accuracy=_accuracy(report),
        results=_paragraphs(report.table(), *report.notes(), *tests),
        limits="\n".join(f"- {each}" for each in (*_limits(report), *limits)),
        **_made(report),
    )


# ---- how to do it again


def recipe(report: TrainingReport) -> str:
    """The command that does it again, or the call where a command cannot say it."""
    names = [name for name in names_of(report.command) if name not in _NOT_RECIPE]
    given = {name: report.options.get(name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    in_memory = any(isinstance(value, dict) for value in given.values())
    lists = [value for value in given.values() if isinstance(value, (list, tuple))]
    if in_memory or any("," in str(each) for value in lists for each in value):
        arguments = "".join(
            f"    {name}={_argument(name, each)},\n" for name, each in given.items()
        )
        return fence(f"bitinfer.train.{report.command}(\n{arguments})", "python")
    words = ["bitinfer", report.command]
    for name, value in given.items():
        words += [_word(value)] if name in ("teacher", "encoder") else option_words(name, value)
    return fence(shlex.join(words), "sh")


def _argument(name: str, value: Any) -> str:
    """As Python; rows that were in memory stand under the name of their argument."""
    if isinstance(value, dict):
        return name
    return repr(list(value) if isinstance(value, tuple) else value)


def option_words(name: str, value: Any) -> list[str]:
    """An argument of a function as the words of a command; those that are off need none.

    >>> option_words("batch_size", 8), option_words("labels", ["no", "yes"])
    (['--batch-size', '8'], ['--labels', 'no,yes'])
    """
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if value is False:
        return ["--no-bf16"] if name == "bf16" else []
    word = _word(value)
    # Text that looks like an option has to be tied to its own.
    return [f"{option}={word}"] if word.startswith("-") else [option, word]


def _word(value: Any) -> str:
    return ",".join(map(_word, value)) if isinstance(value, (list, tuple)) else str(value)


# ---- pieces


def _made(report: TrainingReport) -> dict[str, str]:
    """Of what, when and where."""
    rows = [
        (name, code(file.name), f"{file.rows:,}", code(file.sha256))
        for name in ("train", "unlabelled", "dev")
        if (file := report.data.get(name)) is not None
    ]
    return {
        "data": table(("data", "file", "rows", "SHA-256"), rows, "llrl"),
        "started": report.started,
        "time": duration(report.seconds),
        "machine": report.machine,
        "versions": ", ".join(f"{key} {value}" for key, value in sorted(report.versions.items())),
    }


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(parts)


def _front(report: TrainingReport, name: str, licence: str) -> str:
    """What the hub reads: each value as JSON, which YAML contains."""
    lines: dict[str, Any] = {}
    if licence:
        known = _LICENCE_ID.fullmatch(licence) is not None
        lines = {"license": licence.lower()} if known else {"license": "other"}
        lines |= {} if known else {"license_name": licence}
    packed = report.packed
    lines["library_name"] = "transformers" if packed is None else "bitinfer"
    lines["pipeline_tag"] = "text-classification"
    lines["tags"] = (
        ["bert"] if packed is None else ["bert", "binarized", "quantized", _bits(report)]
    )
    dev = report.data["dev"].name
    value = packed.value if packed is not None else _best(report)
    if math.isfinite(value):
        metric = {"type": report.metric, "value": value}
        result = {"task": {"type": "text-classification"}, "metrics": [metric]}
        result["dataset"] = {"name": dev, "type": dev, "split": "validation"}
        lines["model-index"] = [{"name": name, "results": [result]}]
    return "".join(f"{key}: {json.dumps(each)}\n" for key, each in lines.items())


def _bits(report: TrainingReport) -> str:
    return report.stages[-1].bits if report.stages else "32-32-32"


def _best(report: TrainingReport) -> float:
    return report.stages[-1].best if report.stages else math.nan


def _what(report: TrainingReport) -> str:
    sizes, bits = report.architecture, _bits(report)
    size = size_text(report.float_bytes)
    if report.packed is not None:
        kind = f"A binarized BERT (BiT, {bits}: bits of weights, embeddings, activations)"
        size = f"{size_text(report.packed.bytes)} packed"
    else:
        kind = "A float BERT" if bits == "32-32-32" else f"A BERT of {bits} bits"
    given = "a pair of texts" if report.pairs else "a text"
    return (
        f"{kind} of {sizes.layers} layers x {sizes.hidden}, {sizes.heads} heads, intermediate "
        f"{sizes.intermediate}, vocabulary of {sizes.vocab:,}, {size}. It gives {given} "
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
        return "Made with bitinfer; to be read with transformers, or to be distilled to one bit."
    arguments = '"one text", "another"' if report.pairs else '"some text"'
    call = f'bitinfer.load("{report.packed.file}").predict({arguments})'
    return fence(f"import bitinfer\n\n{call}", "python")


def _accuracy(report: TrainingReport) -> str:
    dev, packed = report.data["dev"], report.packed
    noun = "Accuracy" if report.metric == "accuracy" else "Pearson correlation"
    value = report.measured.text(
        _best(report) if packed is None else packed.value, report.standard_error
    )
    where = "in PyTorch" if packed is None else "with the packed engine"
    said = f"{noun} **{value}** on the {dev.rows:,} rows of {code(dev.name)}, measured {where}"
    if report.teacher is not None:
        value = report.measured.text(report.teacher.value)
        said += f"; its float teacher {code(report.teacher.name)} reaches {value} there"
    return f"{said}."


def _limits(report: TrainingReport) -> list[str]:
    looks = sum(len(stage.points) for stage in report.stages)
    limits = [
        f"The dev rows chose which steps were kept ({looks} measurements in all): on rows that had "
        "no part in it, expect a little less.",
        "It knows the kind of text it was trained on; texts are cut to "
        f"{report.architecture.max_length} tokens.",
    ]
    if report.packed is not None:
        limits.append(
            "So few bits cost accuracy: where the difference to the teacher above matters, use the "
            "teacher."
        )
    return limits
