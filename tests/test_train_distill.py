"""Distillation from end to end: what comes out, going on after a kill, and folders that load."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import environment
from toy import FILL, WORDS, Toy, text, write_bert, write_table

torch: Any = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("transformers", reason="needs the extra train")

import bitinfer  # noqa: E402
from bitinfer.cli import main  # noqa: E402
from bitinfer.data.evaluation import evaluate  # noqa: E402
from bitinfer.data.tables import read_rows  # noqa: E402
from bitinfer.errors import (  # noqa: E402
    ConversionError,
    FormatError,
    InputError,
    InputTypeError,
)
from bitinfer.files import locked_folder  # noqa: E402
from bitinfer.runtime.origin import find_model  # noqa: E402
from bitinfer.train import (  # noqa: E402
    TrainingReport,
    distill,
    distillation,
    finetune,
    loop,
    read_report,
    session,
)
from bitinfer.train.run import Run  # noqa: E402

Capture = pytest.CaptureFixture[str]
FEW: dict[str, Any] = {"steps": 8, "bits": ["1-1-2", "1-1-1"], "batch_size": 8, "threads": 1}
FILES = {"pytorch_model.bin", "config.json", "vocab.txt", "tokenizer_config.json", "README.md"}
FILES |= {"report.json", "log.jsonl"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def start(toy: Toy, output: Path, /, **changes: Any) -> TrainingReport:
    files = {"teacher": toy.teacher, "train": toy.train, "dev": toy.dev}
    given = [changes.pop(name, value) for name, value in files.items()]
    return distill(*given, output, **{**FEW, **changes})


def weights(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("packed.safetensors", "pytorch_model.bin")]


# ---- from an encoder to labels


@pytest.fixture(scope="module")
def made(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingReport, Path]:
    """A model that learned its task."""
    folder = tmp_path_factory.mktemp("made")
    options = {"batch_size": 8, "threads": 1, "learning_rate": 1e-2}
    finetune(toy.encoder, toy.train, toy.dev, folder / "teacher", steps=100, **options)
    report = distill(
        folder / "teacher", toy.train, toy.dev, folder / "out", steps=200, licence="MIT", **options
    )
    assert names(folder) == {"teacher", "out"}
    return report, folder / "out"


def test_it_learns(made: tuple[TrainingReport, Path]) -> None:
    report, _ = made
    assert report.teacher is not None
    assert report.packed is not None
    assert report.teacher.value > 0.8
    assert report.packed.value > 0.8
    assert [stage.bits for stage in report.stages] == ["1-1-4", "1-1-2", "1-1-1"]
    assert [stage.steps for stage in report.stages] == [67, 67, 67]


def test_what_comes_out(made: tuple[TrainingReport, Path]) -> None:
    report, out = made
    assert names(out) == {*FILES, "packed.safetensors"}
    assert len({(out / name).stat().st_mode for name in names(out)}) == 1
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask()
    assert read_report(out) == replace(report, options=read_report(out).options)
    assert report.float_bytes == (out / "pytorch_model.bin").stat().st_size
    assert report.labels == tuple(WORDS)
    points = sum(len(stage.points) for stage in report.stages)
    assert len((out / "log.jsonl").read_text().splitlines()) == points
    card = (out / "README.md").read_text()
    assert "\n# out\n" in card
    assert "MIT" in card
    assert "Parity: exact." in card
    assert report.table() in card
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "fine", "2": "good"}
    assert config["input_bits"] == config["weight_bits"] == 1


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_accuracy_is_that_of_the_packed_engine(
    made: tuple[TrainingReport, Path], toy: Toy, capsys: Capture
) -> None:
    report, out = made
    assert report.packed is not None
    found = evaluate(bitinfer.load(out / "packed.safetensors"), read_rows(toy.dev))
    assert (report.packed.value, report.data["dev"].rows) == (found.value, found.count)
    assert report.packed.bytes == (out / "packed.safetensors").stat().st_size
    assert report.packed.parity.exact
    assert report.packed.parity.sequences == found.count
    assert main(["verify", str(out), "--data", str(toy.dev), "--checkpoint", str(out)]) == 0
    right = round(found.value * found.count)
    shown = f"data: accuracy {found.value:.2%} ({right} of {found.count} texts)\n"
    assert shown in capsys.readouterr().out


def test_the_packed_model_is_the_student(made: tuple[TrainingReport, Path]) -> None:
    """In PyTorch and float32 it says the same, but for a text between two classes."""
    report, _ = made
    assert report.packed is not None
    assert report.packed.value == pytest.approx(report.stages[-1].best, abs=2 / 60)


def test_the_published_folder_converts(made: tuple[TrainingReport, Path], tmp_path: Path) -> None:
    """To the same file, and with the labels that it names itself."""
    _, out = made
    report = bitinfer.convert(out, tmp_path / "again.safetensors", licence="MIT", max_length=32)
    assert report.parity is not None
    assert report.parity.exact
    packed = (out / "packed.safetensors").read_bytes()
    assert (tmp_path / "again.safetensors").read_bytes() == packed


# ---- the folder is a model


def test_the_folder_loads(made: tuple[TrainingReport, Path], capsys: Capture) -> None:
    _, out = made
    direct = bitinfer.load(out / "packed.safetensors")
    model = bitinfer.load(out)
    assert model.info()["sha256"] == direct.info()["sha256"]
    assert model.info()["licence"] == "MIT"
    words = "this film is superb"
    assert model.predict(words) == direct.predict(words)
    assert main(["predict", str(out), words]) == 0
    assert capsys.readouterr().out.startswith(model.predict(words).label or "?")


def test_the_folder_loads_without_torch(made: tuple[TrainingReport, Path]) -> None:
    _, out = made
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import pickle, bitinfer\n"
        "from bitinfer.cli import main\n"
        f"model = bitinfer.load({str(out)!r})\n"
        "print(model.predict('so good').label, model.max_length)\n"
        "assert pickle.loads(pickle.dumps(model)).labels == model.labels\n"
        f"assert main(['info', {str(out)!r}]) == 0\n"
        f"assert main(['predict', {str(out)!r}, 'so good']) == 0\n"
        f"assert main(['convert', {str(out)!r}, 'no.safetensors']) == 3\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "good 32"
    assert "needs PyTorch" in done.stderr


def copy(source: Path, folder: Path, *files: str) -> Path:
    folder.mkdir()
    for file in files:
        (folder / file).write_bytes((source / file).read_bytes())
    return folder


def test_the_content_of_a_folder_decides(
    made: tuple[TrainingReport, Path], toy: Toy, tmp_path: Path
) -> None:
    _, out = made
    published = ["pytorch_model.bin", "config.json", "vocab.txt"]
    packed = copy(out, tmp_path / "packed", "packed.safetensors")
    assert find_model(packed).path == str(packed / "packed.safetensors")
    assert find_model(f"{packed}/../packed/").path.endswith("packed/packed.safetensors")
    checkpoint = copy(out, tmp_path / "checkpoint", *published)
    assert find_model(checkpoint).path == str(checkpoint)
    assert bitinfer.load(checkpoint).labels == bitinfer.load(packed).labels
    # A name is not enough.
    float_weights = (toy.teacher / "model.safetensors").read_bytes()
    for content in (float_weights, b"\xff" * 100, (32).to_bytes(8, "little") + b"{" * 32):
        (checkpoint / "packed.safetensors").write_bytes(content)
        assert find_model(checkpoint).path == str(checkpoint)
    (checkpoint / "packed.safetensors").unlink()
    (checkpoint / "packed.safetensors").mkdir()
    assert find_model(checkpoint).path == str(checkpoint)
    (checkpoint / "packed.safetensors").rmdir()
    os.mkfifo(checkpoint / "packed.safetensors")
    assert find_model(checkpoint).path == str(checkpoint)
    with pytest.raises(ConversionError):
        bitinfer.load(toy.teacher)


def test_a_damaged_packed_file_is_no_checkpoint(
    made: tuple[TrainingReport, Path], tmp_path: Path
) -> None:
    """What was meant to be loaded is told to be damaged; nothing else is taken instead."""
    _, out = made
    folder = copy(out, tmp_path / "out", *FILES, "packed.safetensors")
    content = bytearray((folder / "packed.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "packed.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match=r"packed\.safetensors"):
        bitinfer.load(folder)
    (folder / "packed.safetensors").write_bytes(content[:-100])
    with pytest.raises(FormatError, match=r"packed\.safetensors"):
        bitinfer.load(folder)


# ---- more to learn from


def test_unlabelled_texts(toy: Toy, tmp_path: Path) -> None:
    """They are learned from; the labels that a table may have are not looked at."""
    rows = [[line.split("\t")[0]] for line in toy.dev.read_text().splitlines()[1:]]
    more = write_table(tmp_path / "more.tsv", rows, "sentence")
    odd = write_table(tmp_path / "odd.tsv", [[*row, "no class"] for row in rows])
    plain = start(toy, tmp_path / "plain")
    report = start(toy, tmp_path / "out", unlabelled=more, label_weight=0.5)
    assert report.data["unlabelled"].rows == len(rows)
    assert report.data["unlabelled"].name == "more.tsv"
    assert {*plain.data} == {"train", "dev"}
    both = plain.data["train"].rows + len(rows)
    assert report.stages[0].epochs == 4 / -(-both // 8)
    assert report.packed is not None
    assert report.packed.parity.exact
    start(toy, tmp_path / "odd", unlabelled=odd, label_weight=0.5)
    assert weights(tmp_path / "odd") == weights(tmp_path / "out")
    start(toy, tmp_path / "labelled", label_weight=0.5)
    assert weights(tmp_path / "labelled") != weights(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--unlabelled" in card
    assert card.index("| train |") < card.index("| unlabelled |") < card.index("| dev |")


def test_unlabelled_texts_of_a_regression(toy: Toy, tmp_path: Path) -> None:
    train = regression_table(tmp_path / "train.tsv", toy.train)
    more = write_table(tmp_path / "more.tsv", [["so good"], ["so bad"]], "sentence")
    teacher = write_bert(tmp_path / "teacher", 1)
    options = {"regression": True, "label_weight": 0.5, "unlabelled": more}
    report = distill(teacher, train, train, tmp_path / "out", **{**FEW, **options})
    assert report.packed is not None
    assert report.packed.value == pytest.approx(report.stages[-1].best, abs=0.01)


@pytest.mark.parametrize(
    ("option", "value", "error", "found"),
    [
        ("token_noise", -0.1, InputError, "-0.1"),
        ("token_noise", 0.5, InputError, "0.5"),
        ("token_noise", float("nan"), InputError, "nan"),
        ("token_noise", "0.1", InputTypeError, "str"),
        ("vector_rate", 0, InputError, "0"),
        ("vector_rate", float("inf"), InputError, "inf"),
        ("vector_rate", True, InputTypeError, "bool"),
        ("batch_tokens", 0, InputError, "0"),
        ("batch_tokens", 8.0, InputTypeError, "float"),
        ("batch_tokens", True, InputTypeError, "bool"),
    ],
)
def test_numbers_out_of_bounds(
    option: str, value: Any, error: type[Exception], found: str, toy: Toy, tmp_path: Path
) -> None:
    with pytest.raises(error, match=f"^{option}: found {found}, expected"):
        start(toy, tmp_path / "out", **{option: value})
    assert not names(tmp_path)


def test_vectors_learn_at_their_rate(toy: Toy, tmp_path: Path) -> None:
    """Twice the rate of everything is half the rate of matrices and as much for vectors."""
    options = {"steps": 2, "evaluate_every": 2, "bits": ["1-1-1"]}  # the first has rate 0
    start(toy, tmp_path / "a", learning_rate=2e-4, **options)
    start(toy, tmp_path / "b", learning_rate=1e-4, vector_rate=2.0, **options)
    one, other = (
        torch.load(tmp_path / name / "pytorch_model.bin", weights_only=True) for name in "ab"
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]) == (value.ndim < 2), name


def test_steps_of_so_many_tokens(toy: Toy, tmp_path: Path) -> None:
    """Of one text each, if no two fit into a step."""
    options = {"steps": None, "epochs": 1.0, "bits": ["1-1-1"]}
    rows = len(read_rows(toy.train).texts)
    report = start(toy, tmp_path / "a", batch_size=None, batch_tokens=1, **options)
    (stage,) = report.stages
    assert (stage.steps, stage.epochs) == (rows, 1.0)
    assert [point.step for point in stage.points] == sorted({rows // 2, rows // 2 * 2, rows})
    assert report.options["padding"] == "0.0%"
    start(toy, tmp_path / "b", batch_size=1, **options)
    assert weights(tmp_path / "a") != weights(tmp_path / "b")  # another order
    limited = start(toy, tmp_path / "c", batch_size=2, batch_tokens=10**6, **options)
    assert limited.stages[0].steps == -(-rows // 2)
    whole = start(toy, tmp_path / "d", batch_size=None, batch_tokens=10**6, **options)
    assert whole.stages[0].steps == 1  # no number of texts is a limit
    assert whole.options["batch_size"] is None
    usual = start(toy, tmp_path / "e", batch_size=None, **options)
    assert usual.stages[0].steps == -(-rows // 32)
    assert usual.options["batch_size"] == 32


def test_unlabelled_texts_that_are_no_table(toy: Toy, tmp_path: Path) -> None:
    """Is found before a teacher is made."""
    for teacher in (toy.encoder, toy.teacher):
        with pytest.raises(FileNotFoundError):
            start(toy, tmp_path / "out", teacher=teacher, unlabelled=tmp_path / "none.tsv")
    assert not names(tmp_path)
    pairs = write_table(tmp_path / "pairs.tsv", [["a", "b"]], "text\ttext_pair")
    with pytest.raises(InputError, match=r"pairs\.tsv: found pairs, expected single texts as in"):
        start(toy, tmp_path / "out", unlabelled=pairs)
    empty = write_table(tmp_path / "empty.tsv", [], "sentence")
    with pytest.raises(InputError, match=r"empty\.tsv: found no rows"):
        start(toy, tmp_path / "out", unlabelled=empty)
    with pytest.raises(InputTypeError, match="unlabelled: found int"):
        start(toy, tmp_path / "out", unlabelled=5)


@pytest.mark.parametrize("other", ["batch_tokens", "token_noise", "unlabelled"])
def test_going_on_with_other_texts(
    other: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is refused, also where the table has the same name."""
    more = write_table(tmp_path / "more.tsv", [["so good"]], "sentence")
    options = {"batch_tokens": 50, "token_noise": 0.1, "unlabelled": more, "resume": True}
    with stopped_at(monkeypatch, 2):
        start(toy, tmp_path / "out", **options)
    if other == "unlabelled":
        write_table(more, [["so bad"]], "sentence")
    else:
        options[other] = options[other] / 2 if other == "token_noise" else 40
    with pytest.raises(InputError, match=rf"with other options or data \({other} "):
        start(toy, tmp_path / "out", **options)


def test_token_noise_changes_what_is_learned(toy: Toy, tmp_path: Path) -> None:
    start(toy, tmp_path / "a", token_noise=0.2)
    start(toy, tmp_path / "b", token_noise=0.2)
    start(toy, tmp_path / "c")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a")[0] != weights(tmp_path / "c")[0]


# ---- kinds of tasks


def test_pairs(tmp_path: Path) -> None:
    """Whether two texts are of one kind."""
    random = np.random.RandomState(1)
    rows = []
    for _ in range(60):
        first, second = (list(WORDS)[random.randint(3)] for _ in range(2))
        rows.append([text(first, random), text(second, random), int(first == second)])
    table = write_table(tmp_path / "pairs.tsv", rows, "sentence1\tsentence2\tlabel")
    teacher = write_bert(tmp_path / "teacher", 2)
    report = distill(teacher, table, table, tmp_path / "out", **FEW)
    assert report.pairs
    assert report.labels == ("0", "1")
    assert report.packed is not None
    assert report.packed.parity.exact
    model = bitinfer.load(tmp_path / "out")
    assert model.predict("so good", "so fine").label in ("0", "1")
    found = evaluate(model, read_rows(table))
    assert found.value == report.packed.value
    # The second text and its place count: trained and packed models see the same tokens.
    assert abs(found.value - report.stages[-1].best) <= 2 / 60
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'predict("one text", "another")' in card


def regression_table(path: Path, source: Path) -> Path:
    values = {"bad": -1.5, "fine": 0, "good": 2.25}
    rows = [line.split("\t") for line in source.read_text().splitlines()[1:]]
    return write_table(path, [[words, values[label]] for words, label in rows])


def test_regression(toy: Toy, tmp_path: Path) -> None:
    train = regression_table(tmp_path / "train.tsv", toy.train)
    dev = regression_table(tmp_path / "dev.tsv", toy.dev)
    teacher = write_bert(tmp_path / "teacher", 1)
    report = distill(teacher, train, dev, tmp_path / "out", regression=True, **FEW)
    assert report.metric == "pearson"
    assert report.labels == ()
    assert report.packed is not None
    assert report.packed.parity.exact
    model = bitinfer.load(tmp_path / "out")
    found = evaluate(model, read_rows(dev))
    assert (found.metric, found.value) == ("pearson", report.packed.value)
    assert report.packed.value == pytest.approx(report.stages[-1].best, abs=0.01)
    assert model.predict("so good").label is None


def test_a_regression_of_constants(toy: Toy, tmp_path: Path) -> None:
    """Has no correlation, and is no reason to stop."""
    dev = write_table(tmp_path / "dev.tsv", [["so good", 1], ["so fine", 1], ["bad", 1]])
    train = regression_table(tmp_path / "train.tsv", toy.train)
    teacher = write_bert(tmp_path / "teacher", 1)
    report = distill(teacher, train, dev, tmp_path / "out", regression=True, **FEW)
    assert report.packed is not None
    assert str(report.packed.value) == str(report.stages[0].best) == "nan"
    assert report.standard_error is None
    shown = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert shown["packed"]["value"] is None


def test_many_classes(tmp_path: Path) -> None:
    words = FILL.split()
    rows = [[f"{word} so", f"class {word}"] for word in words] * 2
    table = write_table(tmp_path / "table.tsv", rows)
    teacher = write_bert(tmp_path / "teacher", len({*words}))
    report = distill(teacher, table, table, tmp_path / "out", **FEW)
    assert report.labels == tuple(sorted({f"class {word}" for word in words}))
    assert bitinfer.load(tmp_path / "out").labels == list(report.labels)


def test_gelu_and_all_losses(toy: Toy, tmp_path: Path) -> None:
    options = {"activation": "gelu", "label_weight": 0.5, "attention_weight": 0.1}
    report = start(toy, tmp_path / "out", **options)
    assert report.packed is not None
    assert report.packed.parity.exact
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["hidden_act"] == "gelu"


@pytest.mark.parametrize("bits", ["32-32-32", "1-32-1", "1-1-8", "1-1-1+attention=5", "1-1-32"])
def test_bits_that_cannot_be_packed(bits: str, toy: Toy, tmp_path: Path, capsys: Capture) -> None:
    """Of the last student: refused before anything is trained."""
    files = ["--train", str(toy.train), "--dev", str(toy.dev), "--output", str(tmp_path / "out")]
    assert main(["distill", str(toy.teacher), *files, "--bits", f"1-1-1,{bits}"]) == 2
    shown = re.escape(f"found {bits} last, expected bits that can be packed")
    assert re.search(shown, capsys.readouterr().err)
    with pytest.raises(InputError, match=shown):
        start(toy, tmp_path / "out", bits=[bits])
    assert not names(tmp_path)


@pytest.mark.parametrize("bits", ["1-1-2", "1-1-4", "1-1-1+attention=4"])
def test_students_of_a_few_bits(bits: str, toy: Toy, tmp_path: Path) -> None:
    """Are packed, verified and reported as those of one."""
    report = start(toy, tmp_path / "out", bits=["32-32-8", bits], licence="MIT")
    assert [stage.bits for stage in report.stages] == ["32-32-8", bits]
    assert names(tmp_path / "out") == {*FILES, "packed.safetensors"}
    assert report.packed is not None
    assert report.packed.parity.exact
    assert report.packed.value == pytest.approx(report.stages[-1].best, abs=2 / 60)
    model = bitinfer.load(tmp_path / "out")
    assert model.info()["bits"] == bits
    found = evaluate(model, read_rows(toy.dev))
    assert found.value == report.packed.value
    assert bits in (tmp_path / "out" / "README.md").read_text()


def test_shares_and_looks(toy: Toy, tmp_path: Path) -> None:
    report = start(toy, tmp_path / "out", shares=[1, 3], evaluate_every=4)
    assert [stage.steps for stage in report.stages] == [2, 6]
    assert [[point.step for point in stage.points] for stage in report.stages] == [[2], [4, 6]]


def test_a_budget_in_minutes(toy: Toy, tmp_path: Path) -> None:
    report = start(toy, tmp_path / "out", steps=None, minutes=0.02)
    assert all(stage.seconds >= 0.6 for stage in report.stages)


def test_a_teacher_whose_name_is_no_text(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not among the options either."""
    folder = tmp_path / os.fsdecode(b"\xff")
    shutil.copytree(toy.teacher, folder)
    monkeypatch.chdir(folder)
    report = start(toy, tmp_path / "out", teacher=".")
    assert report.teacher is not None
    assert report.teacher.name == "\N{REPLACEMENT CHARACTER}"


# ---- a BERT without a head


def from_encoder(toy: Toy, output: Path, **changes: Any) -> TrainingReport:
    """24 steps for the teacher and 20 for the students."""
    files = {"teacher": toy.encoder, "train": toy.dev}
    return start(toy, output, **{**files, "steps": 20, **changes})


def test_without_a_head_a_teacher_is_made_first(toy: Toy, tmp_path: Path) -> None:
    report = from_encoder(toy, tmp_path / "out", seed=3)
    assert names(tmp_path) == {"out", "out.teacher"}
    assert report.teacher is not None
    assert report.teacher.name == "out.teacher"
    made = read_report(tmp_path / "out.teacher")
    assert made.command == "finetune"
    assert made.options["seed"] == 3
    assert report.teacher.value == pytest.approx(made.stages[0].best, abs=1 / 60)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"out\.teacher exists"):
        from_encoder(toy, tmp_path / "out", seed=3)


def test_rows_in_memory_are_read_once(toy: Toy, tmp_path: Path) -> None:
    """Though a teacher is made of them first: they may be a generator."""
    rows = [tuple(line.split("\t")) for line in toy.dev.read_text().splitlines()[1:]]
    files = {"train": iter(rows), "dev": iter(rows), "unlabelled": (text for text, _ in rows)}
    report = from_encoder(toy, tmp_path / "out", **files)
    assert {name: file.rows for name, file in report.data.items()} == dict.fromkeys(files, 60)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(
        InputError, match=r"out\.teacher: found a training with other options or data \(.*train '"
    ):
        from_encoder(toy, tmp_path / "out", train=rows[1:], dev=rows, resume=True)
    from_encoder(toy, tmp_path / "out", train=rows, dev=rows, resume=True)


def test_a_bound_of_texts_is_not_the_teachers(toy: Toy, tmp_path: Path) -> None:
    """With tokens the size of a batch of students is but a bound."""
    from_encoder(toy, tmp_path / "out", batch_size=60, batch_tokens=50)
    made = read_report(tmp_path / "out.teacher")
    rows = len(read_rows(toy.dev).texts)
    assert made.stages[0].steps == 3 * -(-rows // 32)


def test_going_on_with_a_teacher_of_other_products(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitinfer.train.session._has_bf16", lambda: True)
    from_encoder(toy, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr("bitinfer.train.session._has_bf16", lambda: False)
    message = r"out\.teacher: found a training with other .* \(bf16 True, now False\)"
    with pytest.raises(InputError, match=message):
        from_encoder(toy, tmp_path / "out", resume=True)
    from_encoder(toy, tmp_path / "out", resume=True, bf16=True)


def test_going_on_with_a_teacher_of_another_encoder(toy: Toy, tmp_path: Path) -> None:
    """In the place of the one before."""
    encoder = write_bert(tmp_path / "encoder")
    from_encoder(toy, tmp_path / "out", teacher=encoder)
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(encoder)
    write_bert(encoder, seed=1)
    with pytest.raises(InputError, match=r"out\.teacher: found a training with other .* \(model '"):
        from_encoder(toy, tmp_path / "out", teacher=encoder, resume=True)


def test_going_on_with_a_teacher_made_otherwise(toy: Toy, tmp_path: Path) -> None:
    """Than `distill` would have made it."""
    files = (toy.encoder, toy.dev, toy.dev, tmp_path / "out.teacher")
    finetune(*files, batch_size=8, threads=1, dropout=0.9)
    with pytest.raises(
        InputError, match=r"out\.teacher: found a training with other .* \(dropout 0\.9, now 0\.1\)"
    ):
        from_encoder(toy, tmp_path / "out", resume=True)
    shutil.rmtree(tmp_path / "out.teacher")
    finetune(*files, batch_size=8, threads=1)
    from_encoder(toy, tmp_path / "out", resume=True)


def test_going_on_with_what_is_no_teacher(toy: Toy, tmp_path: Path) -> None:
    """Of the name that a teacher has."""
    teacher = tmp_path / "out.teacher"
    teacher.mkdir()
    with pytest.raises(InputError, match=r"out\.teacher: found no report .*expected a teacher"):
        from_encoder(toy, tmp_path / "out", resume=True)
    teacher.rmdir()
    start(toy, teacher, unlabelled=toy.dev)
    with pytest.raises(InputError, match=r"out\.teacher: found what distill made, expected a teac"):
        from_encoder(toy, tmp_path / "out", resume=True)
    shutil.rmtree(teacher)
    finetune(toy.encoder, toy.train, toy.dev, teacher, batch_size=8, threads=1, steps=1)
    with pytest.raises(
        InputError, match=r"out\.teacher: found a training with other options or data \(.*train '"
    ):
        from_encoder(toy, tmp_path / "out", resume=True)
    (teacher / "report.json").write_text("{}")
    with pytest.raises(FormatError, match=r"report\.json: found no report of schema"):
        from_encoder(toy, tmp_path / "out", resume=True)
    assert names(tmp_path) == {"out.teacher"}


def test_no_teacher_is_made_for_wrong_texts(toy: Toy, tmp_path: Path) -> None:
    pairs = write_table(tmp_path / "pairs.tsv", [["one", "two"]], "sentence1\tsentence2")
    with pytest.raises(InputError, match=r"pairs\.tsv: found pairs, expected single texts"):
        from_encoder(toy, tmp_path / "out", unlabelled=pairs)
    assert names(tmp_path) == {"pairs.tsv"}


def test_an_output_in_use_has_no_teacher_made_for_it(toy: Toy, tmp_path: Path) -> None:
    with (
        locked_folder(tmp_path / "out.partial"),
        pytest.raises(InputError, match=r"out\.partial: found in use"),
    ):
        from_encoder(toy, tmp_path / "out")
    assert not names(tmp_path)


@pytest.mark.parametrize("stage", [0, 1])
def test_going_on_without_a_head(
    stage: int, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the teacher that is made, and after it."""
    from_encoder(toy, tmp_path / "a")
    with stopped_at(monkeypatch, 10 + 24 * stage):
        from_encoder(toy, tmp_path / "b")
    kept = "b.partial" if stage else "b.teacher.partial"
    assert kept in names(tmp_path)
    if stage:
        with pytest.raises(
            InputError, match=r"b\.teacher: found a training with other .* \(seed 0, now 1"
        ):
            from_encoder(toy, tmp_path / "b", resume=True, seed=1)
    from_encoder(toy, tmp_path / "b", resume=True)
    assert names(tmp_path) == {"a", "a.teacher", "b", "b.teacher"}
    for name in ("config.json", "model.safetensors"):
        one, other = (tmp_path / f"{each}.teacher" / name for each in "ab")
        assert one.read_bytes() == other.read_bytes()


# ---- the same again


def test_same_seed_same_bytes(toy: Toy, tmp_path: Path) -> None:
    start(toy, tmp_path / "a")
    torch.manual_seed(99)
    start(toy, tmp_path / "b")
    start(toy, tmp_path / "c", seed=1)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a")[0] != weights(tmp_path / "c")[0]


# ---- going on


@pytest.fixture(scope="module")
def unbroken(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    start(toy, folder, evaluate_every=2)
    return folder


def equal_logs(one: Path, other: Path) -> bool:
    """But for times."""
    found = []
    for folder in (one, other):
        lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        found.append([{**line, "seconds": None} for line in lines])
    return found[0] == found[1]


def go_on(toy: Toy, folder: Path, unbroken: Path) -> TrainingReport:
    report = start(toy, folder / "out", evaluate_every=2, resume=True)
    assert names(folder) == {"out"}
    assert weights(folder / "out") == weights(unbroken)
    assert equal_logs(folder / "out", unbroken)
    return report


@contextlib.contextmanager
def stopped_at(
    monkeypatch: pytest.MonkeyPatch, call: int, owner: Any = Run, name: str = "keep"
) -> Iterator[None]:
    """A training that is stopped at one of the calls of a function, and saved at each step."""
    function, calls = getattr(owner, name), itertools.count(1)

    def stopping(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize(
    ("owner", "name", "call", "found"),
    [
        (Run, "keep", 1, set()),
        (Run, "keep", 3, {"state.pt"}),
        (Run, "keep", 6, {"state.pt"}),
        (Run, "finish", 1, {"state.pt"}),
        (Run, "finish", 2, {"state.pt"}),
        (distillation, "_begin_steps", 2, {"state.pt"}),
        (distillation, "_write_published", 1, {"state.pt"}),
        (distillation, "convert", 1, {"state.pt"}),
        (distillation, "measure_parity", 1, {"state.pt"}),
        (session, "write_pages", 1, {"state.pt"}),
        (session, "write_log", 1, {"state.pt"}),
    ],
)
def test_going_on_after_a_stop(
    owner: Any, name: str, call: int, found: set[str], toy: Toy, unbroken: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with stopped_at(monkeypatch, call, owner, name):
        start(toy, tmp_path / "out", evaluate_every=2)
    assert names(tmp_path) == ({"out.partial"} if found else set())
    if found:
        assert names(tmp_path / "out.partial") - {"log.jsonl"} == found
        with pytest.raises(InputError, match="found an unfinished training"):
            start(toy, tmp_path / "out")
    go_on(toy, tmp_path, unbroken)


def test_going_on_with_all_that_is_drawn(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch of the second stage."""
    options = {"unlabelled": toy.dev, "token_noise": 0.3, "batch_tokens": 60, "vector_rate": 2.0}
    start(toy, tmp_path / "a", **options)
    with stopped_at(monkeypatch, 8):
        start(toy, tmp_path / "b", **options)
    assert len(torch.load(tmp_path / "b.partial" / "state.pt")["results"]) == 1
    start(toy, tmp_path / "b", **options, resume=True)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_stopped_twice(
    toy: Toy, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (3, 4):
        with stopped_at(monkeypatch, call):
            start(toy, tmp_path / "out", evaluate_every=2, resume=True)
    report = go_on(toy, tmp_path, unbroken)
    assert report.seconds > sum(stage.seconds for stage in report.stages)


def test_going_on_with_nothing(toy: Toy, unbroken: Path, tmp_path: Path) -> None:
    """So that a script can always say so."""
    (tmp_path / "out.partial").mkdir()
    go_on(toy, tmp_path, unbroken)
    with pytest.raises(FileExistsError, match="out exists"):
        start(toy, tmp_path / "out", resume=True)


_KILLED = """
import json, os, signal, sys
from bitinfer.train import distill, loop
from bitinfer.train.run import Run
loop._SAVE_EVERY = -1.0
keep = Run.keep
def keep_and_die(run, middle):
    keep(run, middle)
    if middle is not None and (len(run.results), middle["step"]) == (1, 2):
        with open(run.folder / "log.jsonl", "a") as file:
            file.write('{"stage": ')  # as if it had been at this
        os.kill(os.getpid(), signal.SIGKILL)
Run.keep = keep_and_die
arguments, options = json.loads(sys.argv[1])
distill(*arguments, **options)
"""


def test_going_on_after_a_real_kill(toy: Toy, unbroken: Path, tmp_path: Path) -> None:
    files = [str(path) for path in (toy.teacher, toy.train, toy.dev, tmp_path / "out")]
    options = json.dumps([files, {**FEW, "evaluate_every": 2}])
    command = [sys.executable, "-c", _KILLED, options]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert names(tmp_path) == {"out.partial"}
    go_on(toy, tmp_path, unbroken)


def test_a_disk_that_is_full_at_the_end(
    toy: Toy, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of the size of files stands for it: errors come from where they would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = distillation._write_published
    for size in (100, 40_000):  # weights, packed file

        def limited(*arguments: Any, size: int = size) -> Any:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
            return write(*arguments)

        monkeypatch.setattr(distillation, "_write_published", limited)
        try:
            with pytest.raises(OSError, match="File too large"):
                start(toy, tmp_path / "out", evaluate_every=2, resume=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert names(tmp_path) == {"out.partial"}
    monkeypatch.undo()
    go_on(toy, tmp_path, unbroken)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(toy: Toy, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="out"):
        start(toy, tmp_path / "out")


def test_a_parity_that_fails(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is in the report, and the command says so."""
    measure = distillation.measure_parity
    monkeypatch.setattr(
        distillation,
        "measure_parity",
        lambda *given: replace(measure(*given), codes_differing=1, first_difference="here"),
    )
    files = ["--train", str(toy.train), "--dev", str(toy.dev), "-o", str(tmp_path / "out")]
    steps = ["--steps", "2", "--bits", "1-1-1"]
    assert main(["distill", str(toy.teacher), *files, *steps]) == 1
    assert "NOT exact" in (tmp_path / "out" / "README.md").read_text()
    assert read_report(tmp_path / "out").packed.parity.first_difference == "here"  # type: ignore[union-attr]
