"""Puts a model that `bitinfer distill` made where it is published, with its card and its report.

    python examples/publish.py sst2 OUT --test DATA/test.tsv --teacher TEACHER
    python examples/publish.py clinc150 OUT --test DATA/test.tsv --teacher TEACHER --not-built-in

OUT is the folder that `distill` made, TEACHER the float model it learned from.  The packed file
goes into ``bitinfer/builtin`` and its card beside it, or that of a model that the package does not
contain into ``examples/NAME/README.md``; its report, with a plot, that of its teacher, and the
accuracy on the test rows go into ``examples/NAME``.  Nothing is written unless `bitinfer verify`
passes.  Then

    python benchmarks/table.py --update footprint exactness evaluation demo

brings the pages up to date.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bitinfer
from bitinfer import cli
from bitinfer.data.evaluation import evaluate
from bitinfer.data.tables import read_rows
from bitinfer.errors import BitinferError
from bitinfer.files import file_sha256
from bitinfer.train import TrainingReport, read_report
from bitinfer.train.pages import model_card
from bitinfer.train.plot import as_svg
from bitinfer.train.report import METRICS, code, write_report

ROOT = Path(__file__).resolve().parents[1]
# Where files lay on one machine says nothing: of what was given the name is left, and what was made
# is called as the scripts call it.
GIVEN = ("encoder", "train", "unlabelled", "dev")
FOLDERS = {
    "finetune": {"output": "teacher"},
    "distill": {"teacher": "teacher", "output": "student"},
}


@dataclass(frozen=True)
class Published:
    """What no report knows of a model.

    Attributes:
        title: heading of the card.
        terms: of the data and of the model it started from.
        test_set: what the test rows are.
        limits: what it cannot do.
    """

    title: str
    terms: str
    test_set: str
    limits: tuple[str, ...]


ENCODER = (
    "the encoder is that of all-MiniLM-L6-v2 (Apache-2.0; it descends from Microsoft's MiniLM and "
    "uses the uncased vocabulary of BERT)"
)
MODELS = {
    "sst2": Published(
        title="sst2: sentiment of English sentences, 1 bit",
        terms="SST-2, the Stanford Sentiment Treebank (Socher et al., EMNLP 2013) as in GLUE, "
        "whose authors state no licence; without labels, texts of the Sentence Polarity (Pang and "
        "Lee, ACL 2005) and Subjectivity (Pang and Lee, ACL 2004) datasets, CC BY 4.0; no text of "
        "them is contained here; " + ENCODER,
        test_set="the development set of GLUE",
        limits=(
            "Sentences of English film reviews; of other texts nothing was measured.",
            "Every sentence is positive or negative to it: there is no neutral.",
            "The texts without labels hold sentences of GLUE's SST-2 test set: do not report on "
            "that one. Of the development set they hold none that shares five words in a row.",
            "Its recipe was chosen on the dev rows as well, among some that did less well there.",
            "Two earlier models, trained otherwise, were reported on the same test rows before.",
        ),
    ),
    "clinc150": Published(
        title="clinc150: 150 intents of English requests, 1 bit",
        terms="CLINC150 (Larson et al., An Evaluation Dataset for Intent Classification and "
        "Out-of-Scope Prediction, EMNLP 2019), CC BY 3.0; no text of it is contained here; "
        + ENCODER,
        test_set="the test set of its authors",
        limits=(
            "Short English requests to an assistant; of other texts nothing was measured.",
            "A request that is none of the intents gets one all the same: queries out of scope "
            "were left out.",
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    try:
        publish(options)
    except (BitinferError, OSError, ValueError) as error:
        sys.exit(f"publish.py: {error}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Publish a distilled model with its card.")
    parser.add_argument("name", choices=sorted(MODELS))
    parser.add_argument("out", type=Path, metavar="OUT", help="folder made by distill")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE", help="labelled texts")
    parser.add_argument("--teacher", type=Path, metavar="FOLDER", help="measure it as well")
    parser.add_argument("--not-built-in", action="store_true", help="publish card and report only")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    return parser.parse_args(arguments)


def publish(options: argparse.Namespace) -> None:
    """Check, measure, and only then write.

    Raises:
        ValueError: `bitinfer verify` fails, or there is no packed file or no licence in it.
    """
    report = read_report(options.out)
    if report.packed is None:
        raise ValueError(f"{options.out}: found no packed file in the report, expected one")
    used = {file.sha256: name for name, file in report.data.items()}
    digest = file_sha256(options.test)
    if digest in used:
        raise ValueError(f"{options.test}: found the {used[digest]} table, expected other rows")
    packed = options.out / report.packed.file
    verify(packed, options.out, options.test)
    model = bitinfer.load(packed)
    licence = model.info()["licence"]
    if licence is None:
        raise ValueError(f"{packed}: found no licence, expected one (bitinfer distill --licence)")
    test = tested(model, options)
    report = without_paths(report)
    text = card(options.name, report, licence=licence, test=test, built_in=not options.not_built_in)

    folder = options.root / "examples" / options.name
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, report)
    (folder / "report.svg").write_bytes(as_svg(report))
    (folder / "teacher.json").unlink(missing_ok=True)
    if options.teacher is not None and (options.teacher / "report.json").exists():
        teacher = without_paths(read_report(options.teacher))
        (folder / "teacher.json").write_text(teacher.as_json(), encoding="utf-8")
    (folder / "test.json").write_text(json.dumps(test, indent=2) + "\n", encoding="utf-8")
    if options.not_built_in:
        (folder / "README.md").write_text(text, encoding="utf-8")
        return
    builtin = options.root / "bitinfer" / "builtin"
    shutil.copyfile(packed, builtin / f"{options.name}.safetensors")
    (builtin / f"{options.name}.md").write_text(text, encoding="utf-8")


def verify(packed: Path, checkpoint: Path, test: Path) -> None:
    """Run ``bitinfer verify``: parity with the checkpoint, accuracy on the test rows.

    Raises:
        ValueError: it fails.
    """
    words = [str(packed), "--checkpoint", str(checkpoint), "--data", str(test)]
    print(f"$ bitinfer verify {' '.join(words)}", flush=True)
    if cli.main(["verify", *words]) != 0:
        raise ValueError(f"{packed}: bitinfer verify failed")


def tested(model: bitinfer.BitModel, options: argparse.Namespace) -> dict[str, Any]:
    """The metric of the packed model, and of its teacher if there is one, on the test rows."""
    data = read_rows(options.test)
    found = evaluate(model, data)
    return {
        "labels": len(model.labels),
        "table": options.test.name,
        "table_sha256": file_sha256(options.test),
        "rows": found.count,
        "metric": found.metric,
        "value": found.value,
        "standard_error": METRICS[found.metric].standard_error(found.value, found.count),
        "teacher": None if options.teacher is None else teacher_value(options, model),
        "sha256": model.info()["sha256"],
    }


def teacher_value(options: argparse.Namespace, model: bitinfer.BitModel) -> float:
    """The same metric of the float model, in float32."""
    import torch

    from bitinfer.heads import find_head
    from bitinfer.train.data import tokenize
    from bitinfer.train.session import measure
    from bitinfer.train.teacher import as_student, open_folder, read_bert

    folder, outputs = open_folder(options.teacher), len(model.labels) or 1
    texts = read_rows(options.test)
    name = str(options.test)
    given = (find_head("classification", outputs), model.labels, folder.tokenizer())
    data = tokenize(texts, *given, model.max_length, name=name)
    teacher = read_bert(folder, outputs=outputs, head=True)
    student = as_student(teacher, dtype=torch.float32).eval()
    return measure(student.logits, data, torch.device("cpu"))


def without_paths(report: TrainingReport) -> TrainingReport:
    options = report.options | FOLDERS[report.command]
    for name in GIVEN:
        if options.get(name) is not None:
            options[name] = Path(options[name]).name
    teacher = report.teacher and replace(report.teacher, name=FOLDERS["distill"]["teacher"])
    return replace(report, options=options, teacher=teacher)


def card(
    name: str, report: TrainingReport, *, licence: str, test: dict[str, Any], built_in: bool
) -> str:
    """The card, with what the test rows say; ``examples/demo.py`` looks for that line."""
    about = MODELS[name]
    metric = METRICS[test["metric"]]
    value = metric.text(test["value"], test["standard_error"])
    said = (
        f"Test set, {test['rows']:,} rows ({about.test_set}) that had no part in any of this: "
        f"{metric.name} **{value}**"
    )
    if test["teacher"] is not None:
        said += f"; its float teacher reaches {metric.text(test['teacher'])}"
    scripts = f"examples/{name}"
    origin = (
        f"The scripts in {code(scripts)} of the repository, where `report.json` is as well, make "
        "the tables, the teacher, and then this model by"
    )
    if built_in and report.packed is not None:
        report = replace(report, packed=replace(report.packed, file=name))
    return model_card(
        report,
        name=about.title,
        licence=licence,
        terms=about.terms,
        limits=about.limits,
        origin=[origin],
        tests=[f"{said}."],
    )


if __name__ == "__main__":
    main()
