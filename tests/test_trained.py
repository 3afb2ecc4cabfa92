"""What is published of trainings: tables of reports, the accuracy on test rows, the ablation.

Reports and runs here are made up, but for those that are published with the built-in models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from training import distilled

sys.path.append(str(Path(__file__).parents[1]))

import bitinfer
from benchmarks import trained
from benchmarks.markdown import rewritten
from bitinfer.runtime.origin import builtin_names, find_builtin
from bitinfer.train.report import DataFile, write_report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text("utf-8"))
TEST = {
    "labels": 2,
    "table": "test.tsv",
    "table_sha256": "c" * 64,
    "rows": 1000,
    "metric": "accuracy",
    "value": 0.8,
    "standard_error": 0.0126,
    "teacher": 0.9,
    "sha256": "d" * 64,
}


def run(arm: str, seed: int, value: float, **changes: Any) -> dict[str, Any]:
    kinds = {"bits": ["1-1-2", "1-1-1"], "two_set": True, "fixed_steps": False}
    kinds |= {"row_scales": True, "vector_rate": 1.0}
    measured = {"steps": 1200, "seconds": 60.0, "value": value, "count": 700}
    return {"arm": arm, "seed": seed, **kinds, **measured, **changes}


def runs(arm: str, values: list[float], **changes: Any) -> list[dict[str, Any]]:
    return [run(arm, seed, value, **changes) for seed, value in enumerate(values)]


def ablated(*arms: list[dict[str, Any]]) -> dict[str, Any]:
    setup = {
        "description": "A toy.",
        "machine": "a processor",
        "versions": {"torch": "2", "bitinfer": "1"},
        "teacher": 0.9,
    }
    return {"ablation": {"setup": setup, "runs": [each for arm in arms for each in arm]}}


# ---- models


def test_nothing_is_invented(tmp_path: Path) -> None:
    """Where no figures are, the pages say so."""
    results = trained.saved(tmp_path, tmp_path / "ablation.json")
    for name in trained.TABLES:
        block = f"<!-- table:{name} -->\nold\n<!-- /table -->\n"
        expected = f"<!-- table:{name} -->\nNot measured yet.\n<!-- /table -->\n"
        assert rewritten(block, results, trained.TABLES) == expected


def test_training(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra train")
    folder = tmp_path / "sst2"
    folder.mkdir()
    write_report(folder, distilled())
    (folder / "test.json").write_text(json.dumps(TEST))
    results = trained.saved(tmp_path, tmp_path / "ablation.json")
    text = trained.TABLES["training_sst2"](results)
    assert text.startswith(distilled().table())
    for part in (
        "Parity: exact.",
        "On the 1,000 rows of `test.tsv`, which had no part in any of this: accuracy 80.0 ± 1.3 %, "
        "of its float teacher 90.0 %.",
        "2.5 min in all on a processor, 2 threads, 500 training rows, 6 looks at the dev rows; "
        "bitinfer 0.1.0, torch 2.13.0. [Model card](../bitinfer/builtin/sst2.md).",
        "](../examples/sst2/report.svg)",
    ):
        assert part in text
    assert trained.TABLES["training_clinc150"](results) == "Not measured yet."
    more = {**distilled().data, "unlabelled": DataFile("more.tsv", 1234, "c" * 64)}
    write_report(folder, distilled(data=more))
    results = trained.saved(tmp_path, tmp_path / "ablation.json")
    text = trained.TABLES["training_sst2"](results)
    assert "500 training rows and 1,234 without labels, 6 looks at the dev rows" in text
    (folder / "README.md").touch()
    results = trained.saved(tmp_path, tmp_path / "ablation.json")
    assert "[Model card](../examples/sst2/README.md)" in trained.TABLES["training_sst2"](results)


def test_evaluation_prefers_what_was_measured_last() -> None:
    measured = {"labels": 2, "rows": 1000, "metric": "accuracy", "value": 0.7, "sha256": ""}
    results = {
        "evaluation": {"sst2": {**measured, "standard_error": 0.0142}},
        "tested": {"sst2": TEST, "clinc150": {**TEST, "labels": 150, "teacher": None}},
    }
    assert trained.evaluation(results).splitlines()[2:] == [
        "| `sst2`, built in | SST-2, GLUE's development set | 2 | 1,000 | 70.0 ± 1.4 % | 90.0 % |",
        "| `clinc150`, recipe only | CLINC150, 150 intents | 150 | 1,000 | 80.0 ± 1.3 % |  |",
    ]


# ---- ablation


def test_ablation() -> None:
    """Mean and standard error by hand: of 80, 81, 82 they are 81 and 1 / sqrt(3) = 0.577."""
    base = runs("base", [0.80, 0.81, 0.82])
    near = runs("one set", [0.79, 0.80, 0.81], two_set=False)
    changes = {"fixed_steps": True, "row_scales": False, "vector_rate": 4.0}
    far = runs("one step", [0.76, 0.77, 0.78], bits=["1-1-1"], **changes)
    lines = trained.ablation(ablated(base, near, far)).splitlines()
    assert lines[2:5] == [
        "| base | 1-1-2, 1-1-1 | two sets | learned | of rows | 1 | 1,200 | 60 s | 3 | 81.0 ± 0.6 |"
        "  |  |",
        "| one set | 1-1-2, 1-1-1 | signed | learned | of rows | 1 | 1,200 | 60 s | 3 | 80.0 ± 0.6 "
        "| -1.0 ± 0.8 | yes: within noise |",
        "| one step | 1-1-1 | two sets | fixed | of matrices | 4 | 1,200 | 60 s | 3 | 77.0 ± 0.6 "
        "| -4.0 ± 0.8 | no |",
    ]
    assert "A toy. ± is one standard error over the seeds" in lines[-1]
    assert "The 700 rows are the same for all, the float teacher has 90.0 % of" in lines[-1]
    assert lines[-1].endswith("9.0 min in all; a processor; bitinfer 1, torch 2.")


def test_ablation_with_one_seed_says_that_it_knows_nothing() -> None:
    lines = trained.ablation(ablated(runs("base", [0.8]), runs("other", [0.9]))).splitlines()
    assert lines[2].endswith("| 1 | 80.0 |  |  |")
    assert lines[3].endswith("| 1 | 90.0 | +10.0 | unknown |")


def test_ablation_without_spread() -> None:
    """Seeds that all agree: any difference is one, none is none."""
    same, other = runs("same", [0.8, 0.8]), runs("other", [0.9, 0.9])
    lines = trained.ablation(ablated(runs("base", [0.8, 0.8]), same, other)).splitlines()
    assert lines[3].endswith("| +0.0 ± 0.0 | yes: within noise |")
    assert lines[4].endswith("| +10.0 ± 0.0 | no |")


def test_arms_leave_out_what_they_say() -> None:
    """The students of an arm, and those after them."""
    torch = pytest.importorskip("torch", reason="training needs PyTorch")
    from benchmarks import ablation
    from bitinfer.codes import Bits
    from bitinfer.config import Config
    from bitinfer.train.student import Quantizer, Student

    shape = Config(8, 1, 2, 16, 20, 8, 2, 2, "relu", "classification")
    teacher = Student(shape, Bits.parse("32-32-32"), dtype=torch.float64)
    for arm in ablation.ARMS.values():
        first = ablation._changed(arm, teacher).twin(shape, Bits.parse("1-1-2"))
        student = first.twin(shape, Bits.parse("1-1-1"))
        quantizers = [each for each in student.modules() if isinstance(each, Quantizer)]
        unsigned = {each.point for each in quantizers if not each.codes.signed}
        assert unsigned == ({"attention.probs", "output.in"} if arm.two_set else set())
        steps = [each for each in student.parameters() if each.ndim == 0]
        assert {each.requires_grad for each in steps} == {not arm.fixed_steps}
        own, other = student.state_dict(), teacher.state_dict()
        assert all(torch.equal(own[key], other[key]) for key in other)


@pytest.mark.parametrize(
    ("arm", "error", "message"),
    [
        ([run("base", 0, 0.8), run("base", 0, 0.9)], ValueError, "'base': found a seed twice"),
        ([run("base", 0, 0.8), run("base", 1, 0.9, steps=9)], ValueError, "runs of several kinds"),
        ([{**run("base", 0, 0.8), "seeds": 1}], TypeError, "seeds"),
        ([{"arm": "base"}], TypeError, "missing"),
    ],
)
def test_ablation_errors(arm: list[Any], error: type[Exception], message: str) -> None:
    """An error that left the old table in its place would not be seen."""
    block = "<!-- table:ablation -->\nold\n<!-- /table -->\n"
    with pytest.raises(error, match=message):
        rewritten(block, ablated(arm), trained.TABLES)


# ---- what is published


PUBLISHED = [name for name in trained.MODELS if (trained.EXAMPLES / name / "test.json").is_file()]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_those_of_the_built_in_model(name: str) -> None:
    """A file that is replaced without its report, card and figures is found here."""
    found = trained.saved()
    test, report = found["tested"][name], found["trained"][name]
    assert report.packed is not None
    assert report.packed.parity.exact
    if name not in builtin_names():
        assert (trained.EXAMPLES / name / "README.md").is_file()
        return
    model = bitinfer.load(name)
    assert model.info()["sha256"] == test["sha256"]
    assert Path(find_builtin(name).path).stat().st_size == report.packed.bytes
    assert tuple(model.labels) == report.labels
    measured = RESULTS["evaluation"][name]
    assert {key: test[key] for key in measured} == measured


@pytest.mark.parametrize("name", builtin_names())
def test_built_in_model_was_measured(name: str) -> None:
    measured = RESULTS["evaluation"][name]
    assert measured["sha256"] == bitinfer.load(name).info()["sha256"]
    card = (ROOT / "bitinfer" / "builtin" / f"{name}.md").read_text("utf-8")
    assert f"accuracy **{100 * measured['value']:.1f} ± " in card


def test_built_in_model_on_the_test_set(shared: Path) -> None:
    """The 872 sentences that all speak of."""
    from bitinfer.data.evaluation import evaluate
    from bitinfer.data.tables import read_rows

    found = evaluate(bitinfer.load("sst2"), read_rows(shared / "data" / "sst2" / "test.tsv"))
    measured = RESULTS["evaluation"]["sst2"]
    assert (found.value, found.count) == (measured["value"], measured["rows"])
    correct = RESULTS["exactness"]["sst2"]["runs"]["bitinfer"]["correct"]
    assert correct == round(found.value * found.count)


def test_demo_finds_the_accuracy_on_the_card() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    assert demo.accuracy().startswith(f"{100 * RESULTS['evaluation']['sst2']['value']:.1f} ± ")
