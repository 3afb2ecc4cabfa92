"""Publishing a model that was distilled: what is written where, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from children import environment

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("transformers", reason="needs the extra train")
pytest.importorskip("matplotlib", reason="needs the extra train")

import bitinfer
import bitinfer.train
from bitinfer.train.report import read_report

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("publish", ROOT / "examples" / "publish.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model, trained so little that what it answers is nearly random."""
    folder = tmp_path_factory.mktemp("toy")
    command = [sys.executable, str(ROOT / "examples" / "tiny" / "make.py"), str(folder)]
    subprocess.run(command, env=environment(), check=True)
    files = (folder / "train.tsv", folder / "dev.tsv")
    quiet = {"show_progress_bar": False, "threads": 1}
    bitinfer.train.finetune(folder / "encoder", *files, folder / "tuned", steps=4, **quiet)
    options = {"bits": ["1-1-1"], "steps": 2, "licence": "Apache-2.0", **quiet}
    (folder / "more.tsv").write_text("sentence\nso good\n", encoding="utf-8")
    options["unlabelled"] = folder / "more.tsv"
    bitinfer.train.distill(folder / "tuned", *files, folder / "made", **options)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Stands for the repository."""
    (tmp_path / "bitinfer" / "builtin").mkdir(parents=True)
    return tmp_path


def arguments(toy: Path, root: Path, *more: str) -> list[str]:
    test = ["--test", str(toy / "test.tsv"), "--root", str(root)]
    return ["sst2", str(toy / "made"), *test, *more]


def test_built_in(script: ModuleType, toy: Path, root: Path) -> None:
    script.main(arguments(toy, root, "--teacher", str(toy / "tuned")))
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    names = ("report.json", "report.svg", "teacher.json", "test.json")
    examples = [f"examples/sst2/{name}" for name in names]
    assert files == ["bitinfer/builtin/sst2.md", "bitinfer/builtin/sst2.safetensors", *examples]

    model = bitinfer.load(root / "bitinfer" / "builtin" / "sst2.safetensors")
    test = json.loads((root / "examples" / "sst2" / "test.json").read_text())
    assert test["sha256"] == model.info()["sha256"]
    assert (test["labels"], test["rows"], test["table"]) == (3, 400, "test.tsv")
    assert 0 <= test["teacher"] <= 1

    report = read_report(root / "examples" / "sst2")
    assert report.options["train"] == "train.tsv"
    assert report.options["output"] == "student"
    assert report.options["teacher"] == "teacher"
    assert report.teacher is not None
    assert report.teacher.name == "teacher"
    assert report.options["unlabelled"] == "more.tsv"
    teacher = read_report(root / "examples" / "sst2" / "teacher.json")
    assert teacher.command == "finetune"
    assert (teacher.options["encoder"], teacher.options["output"]) == ("encoder", "teacher")
    card = (root / "bitinfer" / "builtin" / "sst2.md").read_text("utf-8")
    assert str(toy) not in card
    assert 'bitinfer.load("sst2").predict("some text")' in card
    assert "Licence of the model, as its maker says: Apache-2.0." in card
    assert "bitinfer distill teacher --train train.tsv --dev dev.tsv --output student" in card
    value = f"{100 * test['value']:.1f} ± {100 * test['standard_error']:.1f} %"
    theirs = f"{100 * test['teacher']:.1f} %"
    assert re.search(
        rf"^Test set, 400 rows \(.*\) that had no part in any of this: accuracy \*\*{value}\*\*; "
        f"its float teacher reaches {theirs}\\.$",
        card,
        re.MULTILINE,
    )


def test_teacher_is_measured_as_its_own_report_does(
    script: ModuleType, toy: Path, root: Path
) -> None:
    """On the rows of dev, where both are known; the table itself is refused."""
    words = arguments(toy, root, "--teacher", str(toy / "tuned"), "--not-built-in")
    where = words.index("--test") + 1
    words[where] = str(toy / "dev.tsv")
    with pytest.raises(SystemExit, match=r"found the dev table, expected other rows"):
        script.main(words)
    words[where] = str(toy / "copy.tsv")
    (toy / "copy.tsv").write_text((toy / "dev.tsv").read_text("utf-8") + "\n", "utf-8")
    script.main(words)
    test = json.loads((root / "examples" / "sst2" / "test.json").read_text())
    report = read_report(toy / "made")
    assert report.packed is not None
    assert report.teacher is not None
    assert test["value"] == report.packed.value
    # One of them may have been computed with products in bfloat16.
    assert test["teacher"] == pytest.approx(report.teacher.value, abs=0.02)


def test_not_built_in(script: ModuleType, toy: Path, root: Path) -> None:
    """And without a teacher: a report of another one that is there goes."""
    (root / "examples" / "sst2").mkdir(parents=True)
    (root / "examples" / "sst2" / "teacher.json").touch()
    script.main(arguments(toy, root, "--not-built-in"))
    assert not (root / "examples" / "sst2" / "teacher.json").exists()
    assert not any((root / "bitinfer" / "builtin").iterdir())
    card = (root / "examples" / "sst2" / "README.md").read_text("utf-8")
    assert 'bitinfer.load("packed.safetensors")' in card
    assert "its float teacher reaches" not in card


def test_refused(script: ModuleType, toy: Path, root: Path, tmp_path: Path) -> None:
    """Nothing is written for a model that is not what its checkpoint means, or without licence."""
    other = tmp_path / "other"
    shutil.copytree(toy / "made", other)
    shutil.copyfile(bitinfer.runtime.origin.find_model("sst2").path, other / "packed.safetensors")
    with pytest.raises(SystemExit, match=r"publish.py: .*: bitinfer verify failed"):
        script.main([*arguments(toy, root)[:1], str(other), *arguments(toy, root)[2:]])

    (other / "packed.safetensors").unlink()
    bitinfer.convert(other, other / "packed.safetensors", verify=False)
    with pytest.raises(SystemExit, match="found no licence, expected one"):
        script.main([*arguments(toy, root)[:1], str(other), *arguments(toy, root)[2:]])
    assert not (root / "examples").exists()
    assert not any((root / "bitinfer" / "builtin").iterdir())
