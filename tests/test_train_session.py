"""What all training has in common: what is read and refused before it, what is left after it."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import WORDS, Toy, write_bert, write_table

torch: Any = pytest.importorskip("torch", reason="needs the extra train")
transformers: Any = pytest.importorskip("transformers", reason="needs the extra train")

import bitinfer.train.loop  # noqa: E402
import bitinfer.train.run  # noqa: E402
import bitinfer.train.session  # noqa: E402
from bitinfer.errors import (  # noqa: E402
    BitinferError,
    ConversionError,
    InputError,
    InputTypeError,
)
from bitinfer.files import locked_folder  # noqa: E402
from bitinfer.heads import find_head  # noqa: E402
from bitinfer.runtime.text import TextTokenizer  # noqa: E402
from bitinfer.train import distill, finetune, read_report  # noqa: E402
from bitinfer.train.data import Batch, class_names, read_tables, tokenize  # noqa: E402
from bitinfer.train.options import DistillOptions, FinetuneOptions  # noqa: E402
from bitinfer.train.session import measure, reserved, session  # noqa: E402
from bitinfer.train.teacher import open_folder  # noqa: E402

FEW: dict[str, Any] = {"steps": 4, "batch_size": 8, "threads": 1}
TRAINERS = [distill, finetune]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def start(kind: Callable[..., Any], toy: Toy, output: object, /, **changes: Any) -> Any:
    """Some training of that kind."""
    model = toy.teacher if kind is distill else toy.encoder
    files = {"model": model, "train": toy.train, "dev": toy.dev, "output": output}
    given = [changes.pop(name, value) for name, value in files.items()]
    return kind(*given, **{**FEW, **changes})


# ---- what is refused, before anything is done


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"batch_size": 0}, InputError, "batch_size: found 0, expected at least 1"),
        ({"batch_size": 8.0}, InputTypeError, "batch_size: found float, expected an integer"),
        ({"seed": -1}, InputError, "seed: found -1"),
        ({"learning_rate": Decimal(1)}, InputTypeError, "learning_rate: found Decimal"),
        ({"learning_rate": None}, InputTypeError, "learning_rate: found NoneType"),
        ({"learning_rate": 10**400}, InputError, "learning_rate: found inf, expected a finite"),
        ({"output": "a\0b"}, InputError, "output: found 'a.x00b', expected a path"),
        ({"train": "a\0b"}, InputError, "train: found 'a.x00b', expected a path"),
        ({"model": 5}, InputTypeError, "(teacher|encoder): found int, expected a path"),
        ({"licence": "\ud800"}, InputError, "licence: lone surrogate U.D800 at position 0"),
        ({"labels": ["a", "\udc00"]}, InputError, r"labels\[1\]: lone surrogate U.DC00"),
        ({"output": os.fsdecode(b"out\xff")}, InputError, "output: lone surrogate U.DCFF at"),
        ({"dev": os.fsdecode(b"\xff/dev.tsv")}, InputError, "dev: lone surrogate U.DCFF at"),
        ({"text": "\ud800"}, InputError, "text: lone surrogate U.D800 at position 0"),
        ({"seed": 2**63}, InputError, "seed: found 9223372036854775808"),
        ({"learning_rate": Fraction(10**400)}, InputError, "learning_rate: found inf, expected"),
        ({"learning_rate": np.longdouble("1e400")}, InputError, "learning_rate: found inf, expe"),
        ({"steps": 10**400}, InputError, "steps: found 1000.*, expected 1..9007199254740992"),
        ({"steps": None, "epochs": 1e308}, InputError, r"above 0 below 1e\+09"),
        ({"threads": 2**31}, InputError, "threads: found 2147483648, expected 1..1024"),
        ({"evaluate_every": 0}, InputError, "evaluate_every: found 0"),
        ({"threads": 0}, InputError, "threads: found 0"),
        ({"threads": True}, InputTypeError, "threads: found bool"),
        ({"max_length": 2}, InputError, "max_length: found 2, expected at least 3"),
        ({"max_length": 33}, InputError, "max_length: found 33, expected 3..32"),
        ({"learning_rate": 0}, InputError, "learning_rate: found 0"),
        ({"learning_rate": math.nan}, InputError, "learning_rate: found nan"),
        ({"learning_rate": "1"}, InputTypeError, "learning_rate: found str"),
        ({"regression": "no"}, InputTypeError, "regression: found str, expected True or False"),
        ({"resume": None}, InputTypeError, "resume: found NoneType, expected True or False"),
        ({"bf16": "no"}, InputTypeError, "bf16: found str, expected True or False"),
        ({"show_progress_bar": 1}, InputTypeError, "show_progress_bar: found int"),
        ({"text": 1}, InputTypeError, "text: found int, expected str"),
        ({"licence": b"MIT"}, InputTypeError, "licence: found bytes, expected str"),
        ({"labels": "abc"}, InputTypeError, "labels: found 'abc', expected a list"),
        ({"labels": {"a"}}, InputTypeError, "labels: found {'a'}, expected a list"),
        ({"labels": ["a", "a"]}, InputError, "label 1: found 'a' again"),
        ({"labels": ["a", "b"], "regression": True}, InputError, "expected none for a regression"),
        ({"steps": None, "minutes": -1}, InputError, "minutes: found -1"),
        ({"minutes": 1}, InputError, "found minutes and steps, expected one of"),
        ({"output": 7}, InputTypeError, "output: found int, expected a path"),
        ({"dev": None}, InputTypeError, "dev: found NoneType, expected a path"),
    ],
)
@pytest.mark.parametrize("train", TRAINERS)
def test_options_that_are_refused(
    train: Any, option: dict[str, Any], error: type[Exception], message: str, toy: Toy,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        start(train, toy, tmp_path / "out", **option)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"dropout": 1.0}, InputError, "dropout: found 1, expected a finite number of at least 0"),
        ({"dropout": "0"}, InputTypeError, "dropout: found str"),
        ({"reinitialize_pooler": "yes"}, InputTypeError, "reinitialize_pooler: found str"),
    ],
)
def test_options_of_finetune(
    option: dict[str, Any], error: type[Exception], message: str, toy: Toy, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        start(finetune, toy, tmp_path / "out", **option)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"bits": "1-1-1"}, InputTypeError, "bits: found '1-1-1', expected a list"),
        ({"bits": iter(["1-1-1"])}, InputTypeError, "bits: found <.*expected a list"),
        ({"bits": []}, InputError, "bits: found no stage"),
        ({"shares": [1]}, InputError, "shares: found 1, expected 3"),
        ({"shares": 3}, InputTypeError, "shares: found 3, expected a list"),
        (
            {"shares": [1e308] * 3},
            InputError,
            r"shares\[0\]: found 1e\+308, expected a finite number ab",
        ),
        ({"activation": "tanh"}, InputError, "activation: found 'tanh', expected 'relu' or 'gelu'"),
        ({"label_weight": -1}, InputError, "label_weight: found -1"),
        ({"hidden_weight": math.inf}, InputError, "hidden_weight: found inf"),
        ({"attention_weight": "x"}, InputTypeError, "attention_weight: found str"),
    ],
)
def test_options_of_distill(
    option: dict[str, Any], error: type[Exception], message: str, toy: Toy, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        start(distill, toy, tmp_path / "out", **option)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("train", TRAINERS)
def test_places_that_are_taken(
    train: Any, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before anything is read, which may take long."""
    monkeypatch.setattr("bitinfer.train.data.read_rows", pytest.fail)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "log.jsonl").touch()
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "train.tsv").touch()
    for name in ("folder", "file", "link"):
        with pytest.raises(FileExistsError, match=f"{name} exists; expected a new folder"):
            start(train, toy, tmp_path / name, resume=True)
    with pytest.raises(InputError, match=r"out\.partial: found an unfinished training"):
        start(train, toy, tmp_path / "out")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"mine\.partial: found 'train\.tsv', expected an un"):
            start(train, toy, tmp_path / "mine", resume=resume)
    for output in (tmp_path / "none" / "out", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match=r"output: found .*, expected a new folder in"):
            start(train, toy, output)
    assert names(tmp_path) == {"folder", "file", "link", "out.partial", "mine.partial"}
    assert names(tmp_path / "mine.partial") == {"train.tsv"}


@pytest.mark.parametrize("train", TRAINERS)
def test_bad_tables(train: Any, toy: Toy, tmp_path: Path) -> None:
    new = write_table(tmp_path / "new.tsv", [["so good", "good"], ["so new", "new"]])
    with pytest.raises(InputError, match=r"new\.tsv, row 1: found label 'new', expected one of"):
        start(train, toy, tmp_path / "out", dev=new)
    header = "sentence1\tsentence2\tlabel"
    pairs = write_table(tmp_path / "pairs.tsv", [["so", "good", "good"]], header)
    with pytest.raises(InputError, match=r"pairs\.tsv: found pairs, expected single texts as in"):
        start(train, toy, tmp_path / "out", dev=pairs)
    with pytest.raises(InputError, match=r"dev\.tsv: found single texts, expected pairs as in"):
        start(train, toy, tmp_path / "out", train=pairs)
    pairs.unlink()
    some = tmp_path / "some.jsonl"
    rows = [{"text": "so good", "text_pair": None, "label": "good"}]
    for label in WORDS:
        rows.append({"text": "so", "text_pair": label, "label": label})
    some.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    start(train, toy, tmp_path / "some", train=some)  # has both kinds
    shutil.rmtree(tmp_path / "some")
    some.unlink()
    empty = write_table(tmp_path / "empty.tsv", [])
    for name in ("train", "dev"):
        with pytest.raises(InputError, match="found"):
            start(train, toy, tmp_path / "out", **{name: empty})
        with pytest.raises(OSError, match=r"none\.tsv"):
            start(train, toy, tmp_path / "out", **{name: tmp_path / "none.tsv"})
    with pytest.raises(InputError, match=r"columns sentence, label; expected 'review'"):
        start(train, toy, tmp_path / "out", text="review")
    assert names(tmp_path) == {"new.tsv", "empty.tsv"}


@pytest.mark.parametrize("train", TRAINERS)
def test_bad_models(train: Any, toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: found no folder"):
        start(train, toy, tmp_path / "out", model=tmp_path / "none")
    empty = write_bert(tmp_path / "empty", outputs=3)
    (empty / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"empty: found no weights that can be read"):
        start(train, toy, tmp_path / "out", model=empty)
    (empty / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BitinferError, match="empty"):
        start(train, toy, tmp_path / "out", model=empty)
    assert names(tmp_path) == {"empty"}


# ---- what the classes are


def labels_of(toy: Toy, tmp_path: Path, **changes: Any) -> tuple[str, ...]:
    """What a distillation would take for its classes."""
    model, kind = changes.pop("model", toy.teacher), changes.pop("kind", DistillOptions)
    files = {"train": toy.train, "dev": toy.dev, "output": tmp_path / "out"}
    options = kind(model, **{**files, **changes}, threads=1)
    with (
        reserved(options) as partial,
        session(open_folder(model), options, read_tables(options), partial) as ready,
    ):
        return ready.labels


def table_of(folder: Path, labels: Sequence[object]) -> dict[str, str]:
    path = write_table(folder / "table.tsv", [["so good", label] for label in labels])
    return {"train": str(path), "dev": str(path)}


def teacher_of(folder: Path, *labels: str) -> Path:
    return write_bert(folder / "teacher", len(labels), id2label=dict(enumerate(labels)))


def test_labels_of_the_teacher(toy: Toy, tmp_path: Path) -> None:
    """Their order is that of its outputs; that of the alphabet would be wrong."""
    teacher = teacher_of(tmp_path, "positive", "negative", "neutral")
    named = {"model": teacher, **table_of(tmp_path, ["neutral", "positive"])}
    assert labels_of(toy, tmp_path, **named) == ("positive", "negative", "neutral")
    numbered = {"model": teacher, **table_of(tmp_path, [0, 1])}
    assert labels_of(toy, tmp_path, **numbered) == ("positive", "negative", "neutral")


def test_labels_given(toy: Toy, tmp_path: Path) -> None:
    teacher = teacher_of(tmp_path, "positive", "negative", "neutral")
    named = {"model": teacher, **table_of(tmp_path, ["up", "down"])}
    assert labels_of(toy, tmp_path, **named, labels=["up", "down", "same"]) == (
        "up",
        "down",
        "same",
    )
    message = (
        r"table.tsv, row 0: found label 'up', expected one of \['positive', 'negative', 'neutral'\]"
        r" or an index"
    )
    with pytest.raises(InputError, match=message):
        labels_of(toy, tmp_path, **named)


def test_labels_found(toy: Toy, tmp_path: Path) -> None:
    """Where the teacher has no names."""
    teacher = write_bert(tmp_path / "teacher", 3)
    assert json.loads((teacher / "config.json").read_text())["id2label"]["2"] == "LABEL_2"
    assert labels_of(toy, tmp_path, model=teacher) == ("bad", "fine", "good")
    found = table_of(tmp_path, [10, 9, 8])
    assert labels_of(toy, tmp_path, model=teacher, **found) == ("8", "9", "10")


def test_finetuning_makes_a_new_head(toy: Toy, tmp_path: Path) -> None:
    found = table_of(tmp_path, ["a", "b"])
    options = {"model": toy.teacher, "kind": FinetuneOptions, **found}
    assert labels_of(toy, tmp_path, **options) == ("a", "b")


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (3, {}, r"table.tsv: found labels \['a', 'b'\] to predict, expected 3, as many as the"),
        (3, {"regression": True}, "found a number to predict, expected 3, as many as"),
        (1, {}, r"found labels \['a', 'b'\] to predict, expected 1"),
        (3, {"labels": ["a", "b"]}, r"found labels \['a', 'b'\] to predict, expected 3"),
        (2, {"labels": ["a", "b", "c"]}, r"'b', 'c'\] to predict, expected 2"),
    ],
)
def test_a_teacher_of_another_size(
    outputs: int, options: dict[str, Any], message: str, toy: Toy, tmp_path: Path
) -> None:
    teacher = write_bert(tmp_path / "teacher", outputs)
    found = table_of(tmp_path, ["a", "b"])
    with pytest.raises(InputError, match=message):
        labels_of(toy, tmp_path, model=teacher, **found, **options)


def test_outputs_as_transformers_counts_them(toy: Toy, tmp_path: Path) -> None:
    teacher = write_bert(tmp_path / "teacher", 3)
    config = json.loads((teacher / "config.json").read_text())
    del config["id2label"]
    (teacher / "config.json").write_text(json.dumps(config))
    found = table_of(tmp_path, ["a", "b"])
    assert labels_of(toy, tmp_path, model=teacher, **found) == ("a", "b")
    (teacher / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
    with pytest.raises(InputError, match="expected 3"):
        labels_of(toy, tmp_path, model=teacher, **found)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"0": "a", "2": "b"}, ": found .*, expected a name for each"),
        ({"0": "a", "1": "a"}, ": found a name twice"),
        ({"0": "a", "1": 5}, ": found .*, expected a name for each"),
        ({"0": "a", "1": "\ud800"}, r" 1: lone surrogate U\+D800 at position 0"),
    ],
)
def test_damaged_names(names: dict[str, Any], message: str, toy: Toy, tmp_path: Path) -> None:
    teacher = write_bert(tmp_path / "teacher", 2)
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {"id2label": names}))
    with pytest.raises(ConversionError, match=f"teacher: config id2label{message}"):
        labels_of(toy, tmp_path, model=teacher, **table_of(tmp_path, ["a", "b"]))


# ---- pieces


def test_options_become_plain_data() -> None:
    """So that every report can be written."""
    numbers = {"learning_rate": Fraction(1, 4), "dropout": np.float32(0.5), "seed": np.int64(3)}
    files = (Path("encoder"), Path("train"), [("so good", "good")], Path("out"))
    options = FinetuneOptions(*files, **numbers, regression=np.bool_(True))  # type: ignore[arg-type]
    plain = options.plain()
    expected = {"encoder": "encoder", "learning_rate": 0.25, "dropout": 0.5, "seed": 3}
    expected |= {"regression": True, "dev": {"rows": "list"}}
    assert {name: plain[name] for name in expected} == expected
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize("regression", [False, True])
def test_measure(regression: bool) -> None:
    """Whatever the order in which the rows are computed."""
    random = np.random.RandomState(0)
    count = 150
    tokenizer = TextTokenizer("[PAD]\n[UNK]\n[CLS]\n[SEP]\na")
    from bitinfer.data.tables import LabelledTexts

    texts = [("a " * random.randint(1, 9), None) for _ in range(count)]
    labels = [str(random.randint(0, 3)) for _ in range(count)]
    names = () if regression else class_names(labels)
    outputs = len(names) or 1
    head = find_head("classification", outputs)
    data = tokenize(LabelledTexts(texts, labels), head, names, tokenizer, 16, name="x")
    answers = torch.from_numpy(random.standard_normal((count, outputs)))

    def logits(batch: Batch) -> Any:
        assert not torch.is_grad_enabled()
        return answers[batch.indices]

    found = measure(logits, data, torch.device("cpu"))
    truth = np.array(labels, float)
    if regression:
        assert found == pytest.approx(np.corrcoef(answers[:, 0], truth)[0, 1], abs=1e-6)
        constant = measure(lambda batch: torch.ones(len(batch.indices), 1), data, "cpu")  # type: ignore[arg-type]
        assert math.isnan(constant)
    else:
        assert found == pytest.approx((answers.numpy().argmax(1) == truth).mean(), abs=1e-12)


# ---- what is left


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_as_before(fails: bool, toy: Toy, tmp_path: Path) -> None:
    """Threads and the state of random numbers of PyTorch."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    try:
        if fails:
            with pytest.raises(InputError, match="the loss became"):
                start(finetune, toy, tmp_path / "out", learning_rate=1e30, steps=20)
        else:
            start(finetune, toy, tmp_path / "out")
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.rand(3), expected)
    finally:
        torch.set_num_threads(before)


def test_finetuned_folder(toy: Toy, tmp_path: Path) -> None:
    report = start(finetune, toy, tmp_path / "out", licence="MIT", max_length=16)
    out = tmp_path / "out"
    assert names(tmp_path) == {"out"}
    expected = {"config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json"}
    expected |= {"report.json", "README.md", "log.jsonl"}
    assert names(out) == expected
    assert len({(out / name).stat().st_mode for name in expected}) == 1
    assert read_report(out) == replace(report, options=read_report(out).options)
    assert report.command == "finetune"
    assert report.teacher is report.packed is None
    assert report.labels == tuple(WORDS)
    assert report.architecture["max_length"] == 16
    assert report.float_bytes == (out / "model.safetensors").stat().st_size
    assert report.options["padding"].endswith("%")
    (stage,) = report.stages
    assert stage.bits == "32-32-32"
    assert len((out / "log.jsonl").read_text().splitlines()) == len(stage.points)
    assert "MIT" in (out / "README.md").read_text()


def test_transformers_reads_what_was_finetuned(toy: Toy, tmp_path: Path) -> None:
    report = start(finetune, toy, tmp_path / "out", steps=100, learning_rate=5e-3)
    kind = transformers.AutoModelForSequenceClassification
    transformers.utils.logging.disable_progress_bar()
    model, found = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(found.values())
    assert model.config.id2label == dict(enumerate(WORDS))
    assert model.config.label2id == {name: index for index, name in enumerate(WORDS)}
    assert model.config.problem_type == "single_label_classification"
    assert model.config.hidden_dropout_prob == 0.1
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("A GOOD film")["input_ids"] == tokenizer("a good film")["input_ids"]
    rows = [line.split("\t") for line in toy.dev.read_text().splitlines()[1:]]
    with torch.no_grad():
        batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
        indices = model.eval()(**batch).logits.argmax(1).tolist()
    right = [list(WORDS)[index] == label for index, (_, label) in zip(indices, rows, strict=True)]
    assert report.stages[0].best > 0.5
    assert sum(right) / len(rows) == pytest.approx(report.stages[0].best, abs=1 / len(rows))


def test_a_finetuned_regression(toy: Toy, tmp_path: Path) -> None:
    values = dict(zip(WORDS, (-1.0, 0.0, 1.5), strict=True))
    files = {}
    for name in ("train", "dev"):
        rows = [line.split("\t") for line in getattr(toy, name).read_text().splitlines()[1:]]
        table = [[text, values[label]] for text, label in rows]
        files[name] = write_table(tmp_path / f"{name}.tsv", table)
    options = {"regression": True, "steps": 60, "learning_rate": 5e-3}
    report = start(finetune, toy, tmp_path / "out", **files, **options)
    assert report.metric == "pearson"
    assert report.labels == ()
    assert report.stages[0].best > 0.5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert len(config["id2label"]) == 1


@pytest.mark.parametrize("kind", ["tuples", "dicts", "generator"])
def test_rows_in_memory(kind: str, toy: Toy, tmp_path: Path) -> None:
    """Train the same model as a file of them, and the report says what they were."""
    files = {}
    for name in ("train", "dev"):
        lines = getattr(toy, name).read_text().splitlines()[1:]
        rows: Any = [tuple(line.split("\t")) for line in lines]
        if kind == "dicts":
            rows = [{"text": text, "label": label} for text, label in rows]
        files[name] = iter(rows) if kind == "generator" else rows
    report = start(finetune, toy, tmp_path / "a", **files)
    start(finetune, toy, tmp_path / "b")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert report.data["dev"].name == "rows"
    assert report.data["dev"].rows == 60
    assert read_report(tmp_path / "a").data == report.data
    assert "    train=train,\n" in (tmp_path / "a" / "README.md").read_text()
    with pytest.raises(InputError, match=r"^dev, row 1"):
        start(finetune, toy, tmp_path / "c", dev=[("so good", "good"), ("so new", "new")])


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_same_seed_same_weights(toy: Toy, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        start(finetune, toy, tmp_path / name, seed=seed)
        torch.manual_seed(seed + 17)  # what the caller does has no influence
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_options_have_an_effect(toy: Toy, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"dropout": 0.0}, {"reinitialize_pooler": True}]
    changes += [{"batch_size": 4}, {"learning_rate": 1e-3}, {"max_length": 4}]
    found = set()
    for index, change in enumerate(changes):
        start(finetune, toy, tmp_path / str(index), **change)
        found.add(weights(tmp_path / str(index)))
    assert len(found) == len(changes)


def test_a_new_pooler(toy: Toy, tmp_path: Path) -> None:
    options = {"learning_rate": 1e-12, "steps": 1}
    start(finetune, toy, tmp_path / "a", **options)
    start(finetune, toy, tmp_path / "b", **options, reinitialize_pooler=True)
    from safetensors.torch import load_file

    key = "pooler.dense.weight"
    before = load_file(toy.encoder / "model.safetensors")[key]
    kept, drawn = (load_file(tmp_path / name / "model.safetensors")[f"bert.{key}"] for name in "ab")
    assert torch.allclose(kept, before, atol=1e-6)
    assert not torch.allclose(drawn, before, atol=1e-2)
    assert float(drawn.std()) == pytest.approx(0.15, rel=0.1)  # the encoder's initializer_range


def test_finetuning_goes_on(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the dropout that it would have had."""
    options = {"steps": 9, "evaluate_every": 2, "resume": True}
    expected = start(finetune, toy, tmp_path / "a", **options)
    monkeypatch.setattr(bitinfer.train.loop, "_SAVE_EVERY", -1.0)
    log, logged = bitinfer.train.run.Run.log, []

    def stop(run: Any, stage: str, point: Any) -> None:
        logged.append(point)
        log(run, stage, point)
        if len(logged) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(bitinfer.train.run.Run, "log", stop)
    with pytest.raises(KeyboardInterrupt):
        start(finetune, toy, tmp_path / "b", **options)
    assert names(tmp_path) == {"a", "b.partial"}
    report = start(finetune, toy, tmp_path / "b", **options)
    assert names(tmp_path) == {"a", "b"}
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    for one, other in zip(report.stages[0].points, expected.stages[0].points, strict=True):
        assert (one.step, one.loss, one.value) == (other.step, other.loss, other.value)
    # What the kill took is measured again, and in the log once.
    lines = (tmp_path / "b" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [2, 4, 6, 8, 9]


def stop_at_the_end(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[..., Any], *given: Any, **changes: Any
) -> None:
    """Training that is stopped when all that is left is to write what came of it."""

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(bitinfer.train.loop, "_SAVE_EVERY", -1.0)
    with monkeypatch.context() as patch:
        patch.setattr("bitinfer.train.session.new_folder", stop)
        with pytest.raises(KeyboardInterrupt):
            start(kind, *given, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, now 1"),
        ({"learning_rate": 1e-3}, "learning_rate 5e-05, now 0.001"),
        ({"steps": 5}, "steps 4, now 5"),
        ({"train": "other"}, "train '[0-9a-f]{64}', now '[0-9a-f]{64}'"),
        ({"model": "other"}, "model '[0-9a-f]{64}', now '"),
    ],
)
def test_going_on_with_other_options(
    change: dict[str, Any], message: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_the_end(monkeypatch, finetune, toy, tmp_path / "out")
    if "train" in change:
        change = {"train": write_table(tmp_path / "train.tsv", [["x", name] for name in WORDS])}
    if "model" in change:
        change = {"model": write_bert(tmp_path / "other", seed=1)}
    with pytest.raises(InputError, match=rf"state\.pt: found a training with other .* \({message}"):
        start(finetune, toy, tmp_path / "out", resume=True, **change)
    # With another number of threads too, though sums are added up in another order then.
    free = {"threads": 2, "show_progress_bar": False, "licence": "MIT"}
    report = start(finetune, toy, tmp_path / "out", resume=True, **free)
    assert report.options["licence"] == "MIT"


def test_going_on_by_another_spelling(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the names of the same model and tables."""
    stop_at_the_end(monkeypatch, distill, toy, tmp_path / "out")
    monkeypatch.chdir(toy.teacher.parent)
    spelled = {"model": f"{toy.teacher.name}/", "train": toy.train.name, "dev": f"./{toy.dev.name}"}
    report = start(distill, toy, tmp_path / "out", **spelled, resume=True)
    assert report.options["teacher"] == spelled["model"]


@pytest.mark.parametrize("name", ["vocab.txt", "config.json"])
def test_going_on_with_another_model_in_its_place(
    name: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same weights."""
    teacher = teacher_of(tmp_path, *sorted(WORDS))
    stop_at_the_end(monkeypatch, distill, toy, tmp_path / "out", model=teacher)
    path = teacher / name
    before = path.read_text()
    if name == "vocab.txt":
        *rest, last = before.splitlines()
        path.write_text("\n".join([*rest[:-1], last, rest[-1], ""]))
    else:
        path.write_text(json.dumps({**json.loads(before), "layer_norm_eps": 1e-3}))
    with pytest.raises(InputError, match=r"other options or data .model '[0-9a-f]{64}', now '"):
        start(distill, toy, tmp_path / "out", model=teacher, resume=True)
    path.write_text(before)
    start(distill, toy, tmp_path / "out", model=teacher, resume=True)


def test_going_on_with_a_state_of_another_format(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_the_end(monkeypatch, finetune, toy, tmp_path / "out")
    monkeypatch.setattr(bitinfer.train.run, "_FORMAT", bitinfer.train.run._FORMAT + 1)
    with pytest.raises(InputError, match=r"state\.pt: found a training of another version of bit"):
        start(finetune, toy, tmp_path / "out", resume=True)


def test_going_on_where_products_are_others(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that has no bfloat16."""
    monkeypatch.setattr("bitinfer.train.session._has_bf16", lambda: True)
    stop_at_the_end(monkeypatch, finetune, toy, tmp_path / "out")
    monkeypatch.setattr("bitinfer.train.session._has_bf16", lambda: False)
    with pytest.raises(InputError, match=r"\(bf16 True, now False\)"):
        start(finetune, toy, tmp_path / "out", resume=True)
    start(finetune, toy, tmp_path / "out", resume=True, bf16=True)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_two_at_once(begun: bool, resume: bool, toy: Toy, tmp_path: Path) -> None:
    """The second is refused, and takes nothing away from the first."""
    partial = tmp_path / "out.partial"
    with locked_folder(partial):
        if begun:
            (partial / "log.jsonl").touch()
        with pytest.raises(InputError, match=r"out\.partial: found in use by another run"):
            start(finetune, toy, tmp_path / "out", resume=resume)
        assert partial.is_dir()
    assert partial.exists() == begun
    start(finetune, toy, tmp_path / "out", resume=begun)
    assert names(tmp_path) == {"out"}


def test_an_output_that_was_made_while_one_waited(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is found before anything is trained."""
    lock = bitinfer.train.session.locked_folder

    def late(folder: Path) -> Any:
        (tmp_path / "out").mkdir()
        return lock(folder)

    monkeypatch.setattr("bitinfer.train.session.locked_folder", late)
    with pytest.raises(FileExistsError, match="out exists"):
        start(finetune, toy, tmp_path / "out")
    assert names(tmp_path) == {"out"}


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    program = (
        "import os, pathlib, signal, sys\n"
        "from bitinfer.files import locked_folder\n"
        "with locked_folder(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="in use"), locked_folder(folder):
            raise AssertionError("two have it")
        process.kill()
    assert folder.is_dir()
    with locked_folder(folder):
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize("moment", ["open", "flock"])
def test_a_folder_that_is_removed_before_it_is_locked(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who had it: the lock is on the folder that has the name in the end."""
    import fcntl

    folder = tmp_path / "a"
    module = os if moment == "open" else fcntl
    function = getattr(module, moment)
    removed = []

    def late(*given: Any) -> Any:
        if not removed and folder.exists():
            folder.rmdir()
            removed.append(folder)
        return function(*given)

    monkeypatch.setattr(module, moment, late)
    with locked_folder(folder):
        assert removed
        assert folder.is_dir()
        with pytest.raises(InputError, match="in use"), locked_folder(folder):
            raise AssertionError("two have it")


def test_what_another_one_made_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with locked_folder(folder):
        folder.rmdir()
        folder.mkdir()
    assert folder.is_dir()


def test_a_file_system_without_locks(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(number: int) -> Any:
        def fails(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        return fails

    monkeypatch.setattr("fcntl.flock", no_lock(errno.ENOLCK))
    start(finetune, toy, tmp_path / "out")
    assert names(tmp_path) == {"out"}
    folder = tmp_path / "shared"
    with locked_folder(folder):
        with locked_folder(folder):
            pass
        assert folder.is_dir()  # the second one cannot know that nobody else has it
    monkeypatch.setattr("fcntl.flock", no_lock(errno.EIO))
    with pytest.raises(OSError, match=rf"{os.strerror(errno.EIO)}: '.*other\.partial'"):
        start(finetune, toy, tmp_path / "other")


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_what_is_no_folder_is_not_locked(kind: str, tmp_path: Path) -> None:
    path, target = tmp_path / "a", tmp_path / "b"
    if kind == "file":
        path.touch()
    else:
        path.symlink_to(target)
    if kind == "link":
        target.mkdir()
    before = names(tmp_path)
    with (
        pytest.raises(InputError, match="a: found a file or a link, expected a folder"),
        locked_folder(path),
    ):
        raise AssertionError("it is locked")
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("option", "level", "shown"),
    [
        (None, logging.WARNING, False),
        (None, logging.INFO, True),
        (True, logging.WARNING, True),
        (False, logging.INFO, False),
    ],
)
def test_progress_as_of_prediction(
    option: bool | None, level: int, shown: bool, toy: Toy, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(level, "bitinfer")
    start(finetune, toy, tmp_path / "out", show_progress_bar=option)
    output, errors = capsys.readouterr()
    assert output == ""
    assert ("32-32-32" in errors) == shown
    assert shown or errors == ""
