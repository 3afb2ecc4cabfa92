"""What is written of a training run, and read again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from training import distilled, finetuned, stage

import bitinfer.train
from bitinfer.errors import FormatError, UnsupportedError
from bitinfer.train.options import check_installed
from bitinfer.train.pages import model_card, recipe, write_pages
from bitinfer.train.plot import as_svg
from bitinfer.train.report import (
    Parity,
    TrainingReport,
    code,
    fence,
    read_report,
    write_report,
)

NAN = math.nan


# ---- report.json


@pytest.mark.parametrize(
    "report",
    [
        distilled(options={"seed": 0, "bits": ["1-1-1"]}),
        finetuned(options={}),
        finetuned(options={}, metric="pearson", labels=()),
        distilled(options={"shares": None, "nested": {"a": [1, 0.5, True]}}, packed=None),
    ],
)
def test_round_trip(report: TrainingReport, tmp_path: Path) -> None:
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    assert read_report(str(tmp_path / "report.json")) == report


def test_the_lazy_names() -> None:
    assert bitinfer.train.read_report is read_report
    assert bitinfer.train.TrainingReport is TrainingReport
    assert {"distill", "finetune", "read_report"} <= set(dir(bitinfer.train))
    with pytest.raises(AttributeError, match="'fly'"):
        _ = bitinfer.train.fly  # type: ignore[attr-defined]


def test_json_is_stable(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_pages(tmp_path / folder, distilled(), name="x", licence=None)
    names = ["README.md", "report.json"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "report.json").read_text()
    data = json.loads(text)
    assert text == json.dumps(data, indent=2, sort_keys=True) + "\n"
    assert data["schema"] == 2
    assert data["packed"]["parity"]["codes_differing"] == 0
    assert data["stages"][0]["points"][0] == {"loss": None, "seconds": 0, "step": 0, "value": 0.425}


def test_reports_are_replaced(tmp_path: Path) -> None:
    write_report(tmp_path, finetuned(options={}))
    write_report(tmp_path, distilled(options={}))
    assert read_report(tmp_path) == distilled(options={})
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    """A correlation with constants is undefined, and JSON has no word for that."""
    odd = replace(stage("1-1-1", NAN), points=(replace(stage("1-1-1", 0.5).points[1], loss=NAN),))
    report = finetuned(metric="pearson", labels=(), stages=(odd,), options={"x": NAN})
    write_report(tmp_path, report)
    assert "NaN" not in (tmp_path / "report.json").read_text()
    found = read_report(tmp_path)
    assert math.isnan(found.stages[0].best)
    assert found.stages[0].points[0].loss is None
    assert found.options == {"x": None}
    assert "| undefined |" in found.table()


def changed(where: str, value: Any) -> bytes:
    """A report with another value at a path of keys; ... removes."""
    data = json.loads(distilled().as_json())
    *path, last = where.split("/")
    inner: Any = data
    for key in path:
        inner = inner[int(key)] if key.isdecimal() else inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no JSON"),
        (b"\xff", "found no JSON"),
        (b"[" * 100_000, "found no JSON"),
        (b"[]", "found no report of schema 2"),
        (b"{}", "found no report of schema 2"),
        (changed("schema", 1), "found no report of schema 2"),
        (changed("seconds", ...), "found no key 'seconds', expected"),
        (changed("extra", 1), "found unknown key 'extra'"),
        (changed("seconds", "1"), "seconds: found '1', expected a number"),
        (changed("float_bytes", True), "float_bytes: found True, expected int"),
        (changed("pairs", 1), "pairs: found 1, expected bool"),
        (changed("metric", "f1"), "metric: found 'f1', expected 'accuracy' or 'pearson'"),
        (changed("metric", []), r"metric: found \[\], expected 'accuracy' or 'pearson'"),
        (changed("labels", "ab"), "labels: found 'ab', expected a list"),
        (changed("labels", [None]), r"labels\[0\]: found None, expected str"),
        (changed("stages/1/best", {}), r"stages\[1\].best: found {}, expected a number"),
        (changed("stages/0/points", [1]), r"stages\[0\].points\[0\]: found 1, expected an object"),
        (changed("stages/0/points/0/step", ...), r"points\[0\]: found no key 'step'"),
        (changed("packed/parity", None), "packed.parity: found None, expected an object"),
        (changed("data", []), r"data: found \[\], expected an object"),
        (changed("data/dev/rows", None), "data.dev.rows: found None, expected int"),
        (changed("versions/torch", 2), "versions.torch: found 2, expected str"),
    ],
)
def test_damaged_reports(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(FormatError, match=f"report.json: .*{message}"):
        read_report(file)


def test_no_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"report\.json"):
        read_report(tmp_path)


# ---- the table


def test_table() -> None:
    assert distilled().table().splitlines() == [
        "| model | bits | steps | epochs | time | accuracy, 80 dev rows | size |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| teacher, `bert-sst2` | 32-32-32 |  |  |  | 90.0 % | 1.5 MB |",
        "| stage 1 | 1-1-2 | 40 | 2.5 | 2 s | 85.0 % |  |",
        "| stage 2 | 1-1-1 | 1,200 | 2.5 | 2 s | 75.0 % |  |",
        "| **packed**, `packed.safetensors` | 1-1-1 |  |  |  | **75.0 ± 4.8 %** | 81 kB |",
    ]


def test_table_of_a_fine_tuned_model() -> None:
    assert finetuned().table().splitlines()[2:] == [
        "| fine-tuned | 32-32-32 | 40 | 2.5 | 2 s | 90.0 ± 3.4 % | 1.5 MB |"
    ]


def test_table_without_packed_model() -> None:
    """The last stage stands for the result, with its size and its error."""
    report = distilled(packed=None, metric="pearson", stages=(stage("1-1-4", 0.8),))
    last = "| stage 1 | 1-1-4 | 40 | 2.5 | 2 s | 0.800 ± 0.041 | 1.5 MB |"
    assert report.table().splitlines()[-1] == last


def test_the_card_tells_how_it_was_made() -> None:
    """All that a report holds but for the points."""
    options = {**distilled().options, "warmup": 100}
    text = model_card(distilled(options=options), name="x")
    for part in (
        "± is one standard error of 80 rows.",
        "Parity: exact. Packed engine against float64 reference: 0 of 12,345 codes differ, logits "
        "within 3.0e-15 (80 texts, 900 tokens).",
        "same model takes 1.5 MB.",
        "bitinfer distill bert-sst2 --train train.tsv --dev 'my dev.tsv' --output out --epochs 2.5 "
        "--no-bf16 --licence Apache-2.0 --bits 1-1-2,1-1-1 --learning-rate 0.0005\n",
        f"| train | `train.tsv` | 500 | `{'a' * 64}` |\n| dev | `my dev.tsv` | 80 |",
        "2.5 min on a processor, 2 threads, begun or last resumed 2026-11-22T20:00:00+00:00; "
        "bitinfer 0.1.0, torch 2.13.0. Found: warmup: `100`. Everything",
    ):
        assert part in text
    assert "--resume" not in text
    assert "report.svg" not in text
    drawn = model_card(distilled(options={**options, "plot": True}), name="x")
    assert "\n\n![dev metric against steps](report.svg)\n\n" in drawn


def test_the_card_does_not_hide_a_difference() -> None:
    packed = distilled().packed
    assert packed is not None
    parity = Parity(80, 900, 12_345, 7, "layer.0.query", 0.5)
    text = model_card(distilled(packed=replace(packed, parity=parity)), name="x")
    assert "**Parity: NOT exact.** Packed engine against float64 reference: 7 of 12,345" in text


def test_names_do_not_break_the_markdown() -> None:
    assert code("a|b\nc") == "`a\\|b c`"
    assert code("a`b``c") == "``` a`b``c ```"
    assert fence("```", "") == "````\n```\n````"


def test_recipe_of_labels_that_no_command_can_name() -> None:
    report = distilled(options={"teacher": "t", "labels": ["a,b", "c"], "resume": False})
    text = recipe(report)
    assert text.startswith(
        "```python\nbitinfer.train.distill(\n    teacher='t',\n    labels=['a,b', 'c']"
    )


# ---- report.svg


def test_plot_is_deterministic_and_has_no_date() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="draws")

    svg = as_svg(distilled())
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "font.size": 30}):
        assert as_svg(distilled()) == svg
        assert matplotlib.rcParams["font.size"] == 30
    assert b"dc:date" not in svg
    text = " ".join(ElementTree.fromstring(svg).itertext())
    for part in ("teacher, float", "1-1-2", "1-1-1", "packed, with", "accuracy, % (80 dev rows)"):
        assert part in text


@pytest.mark.parametrize(
    "report",
    [
        finetuned(metric="pearson", stages=(stage("32-32-32", NAN),)),
        distilled(stages=tuple(stage(f"1-1-{bits}", 0.5) for bits in range(1, 9))),
        distilled(stages=(replace(stage("1-1-1", 0.5), points=()),)),
    ],
)
def test_plots_of_odd_runs(report: TrainingReport) -> None:
    pytest.importorskip("matplotlib", reason="draws")
    ElementTree.fromstring(as_svg(report))


def test_a_plot_is_drawn_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="draws")
    asked = distilled(options={**distilled().options, "plot": True})
    write_pages(tmp_path, asked, name="x", licence=None)
    assert (tmp_path / "report.svg").read_bytes() == as_svg(asked)
    (tmp_path / "report.svg").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_pages(tmp_path, distilled(), name="x", licence=None)
    assert not (tmp_path / "report.svg").exists()
    with pytest.raises(UnsupportedError, match=r"needs matplotlib.*pip install bitinfer\[train\]"):
        check_installed("matplotlib")


def test_reading_needs_neither_torch_nor_matplotlib(tmp_path: Path) -> None:
    write_report(tmp_path, distilled())
    program = (
        "import sys\n"
        "from bitinfer.train import read_report\n"
        "print(read_report(sys.argv[1]).table())\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


# ---- README.md of the model


def test_card_of_a_packed_model() -> None:
    card = model_card(distilled(), name="my\nmodel", licence="Apache-2.0", limits=["English only."])
    assert "---\n\n# my model\n\nA binarized BERT (BiT, 1-1-1: bits of weights, embe" in card
    for part in (
        "of 2 layers x 64, 4 heads, intermediate 128, vocabulary of 1,000, 81 kB packed.",
        "It gives a text one of 2 labels: `negative`, `positive`.",
        'bitinfer.load("packed.safetensors").predict("some text")',
        "Licence of the model, as its maker says: Apache-2.0.",
        "Terms of the data and of the model it started from: not stated.",
        "Accuracy **75.0 ± 4.8 %** on the 80 rows of `my dev.tsv`, measured with the packed "
        "engine; its float teacher `bert-sst2` reaches 90.0 % there.",
        distilled().table(),
        "The dev rows chose which steps were kept (6 measurements in all)",
        "texts are cut to 48 tokens",
        "- So few bits cost accuracy",
        "- English only.\n",
    ):
        assert part in card


def test_card_says_what_is_not_stated() -> None:
    card = model_card(distilled(), name="x", licence=" ", terms="data: CC-BY 4.0")
    assert "Licence of the model, as its maker says: not stated." in card
    assert "started from: data: CC-BY 4.0." in card


def test_card_of_other_kinds() -> None:
    names = tuple(f"class {number}" for number in range(150))
    card = model_card(distilled(labels=names, pairs=True), name="x")
    assert "a pair of texts one of 150 labels: `class 0`, " in card
    assert "`class 19`, ...." in card
    assert "`class 20`" not in card
    assert '.predict("one text", "another")' in card

    card = model_card(distilled(labels=(), metric="pearson"), name="x")
    assert "It gives a text a number (regression)." in card
    assert "## Correlation\n\nPearson correlation **0.750" in card

    card = model_card(finetuned(), name="x")
    assert "A float BERT of 2 layers" in card
    assert "vocabulary of 1,000, 1.5 MB." in card
    assert "Accuracy **90.0 ± 3.4 %** on the 80 rows of `my dev.tsv`, measured in PyTorch." in card
    assert "bitinfer finetune minilm --train" in card
    assert "bitinfer.load" not in card
    assert "bits cost" not in card

    card = model_card(distilled(packed=None, stages=(stage("1-1-4", 0.8),)), name="x")
    assert "A BERT of 1-1-4 bits of 2 layers" in card


def test_the_hub_reads_the_card() -> None:
    """Licence, tags and results, as its own library has them."""
    hub = pytest.importorskip("huggingface_hub", reason="reads what is expected")
    card = hub.ModelCard(model_card(distilled(), name="my: model", licence="Apache-2.0"))
    data = card.data
    assert (data.license, data.pipeline_tag) == ("apache-2.0", "text-classification")
    assert data.tags == ["bert", "binarized", "quantized", "1-1-1"]
    (result,) = data.eval_results
    assert (data.model_name, result.dataset_name) == ("my: model", "my dev.tsv")
    assert (result.task_type, result.metric_type) == ("text-classification", "accuracy")
    assert result.metric_value == 0.75
    words = hub.ModelCard(model_card(distilled(), name="x", licence="mine: none")).data
    assert (words.license, words["license_name"]) == ("other", "mine: none")
    odd = finetuned(metric="pearson", labels=(), stages=(stage("32-32-32", NAN),))
    bare = hub.ModelCard(model_card(odd, name="x")).data
    assert bare.license is bare.eval_results is None


def test_card_is_written(tmp_path: Path) -> None:
    for licence in (None, "MIT"):
        write_pages(tmp_path, distilled(), name="x", licence=licence)
    written = (tmp_path / "README.md").read_text("utf-8")
    assert written == model_card(distilled(), name="x", licence="MIT")
