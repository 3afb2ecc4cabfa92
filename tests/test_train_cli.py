"""The commands that train: what they pass on, what they print, and their errors.

What trains is replaced here by something that remembers how it was called.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training import distilled, finetuned

import bitinfer.train
from bitinfer.cli import main
from bitinfer.errors import InputError, InputTypeError
from bitinfer.train.options import (
    OPTIONS,
    DistillOptions,
    FinetuneOptions,
    names_of,
)
from bitinfer.train.pages import recipe
from bitinfer.train.report import Parity, TrainingReport

Capture = pytest.CaptureFixture[str]
FILES = ["--train", "train.tsv", "--dev", "dev.tsv", "-o", "out"]
HOMES = {"distill": "distillation", "finetune": "finetuning"}


class Trainer:
    """Stands for `distill` and `finetune`."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.report: TrainingReport | None = None
        self.error: BaseException | None = None

    def function(self, command: str, report: TrainingReport) -> Callable[..., TrainingReport]:
        def train(*arguments: Any, **options: Any) -> TrainingReport:
            given = dict(zip(names_of(command), arguments, strict=False))
            self.calls.append({**given, **options})
            if self.error is not None:
                raise self.error
            return self.report or report

        return train


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    trainer = Trainer()
    for command, report in (("distill", distilled()), ("finetune", finetuned())):
        monkeypatch.setitem(vars(bitinfer.train), command, trainer.function(command, report))
    return trainer


# ---- what is passed on


def test_only_what_was_given_is_passed_on(trainer: Trainer, capsys: Capture) -> None:
    """So that the defaults are those of the functions."""
    assert main(["distill", "teacher", *FILES]) == 0
    assert main(["finetune", "encoder", *FILES]) == 0
    files = {"train": "train.tsv", "dev": "dev.tsv", "output": "out", "show_progress_bar": False}
    assert trainer.calls == [
        {"teacher": "teacher", "batch_size": 32, **files},
        {"encoder": "encoder", **files},
    ]


GIVEN: dict[str, tuple[str, Any]] = {
    "text": ("--text a", "a"),
    "pair": ("--pair-column b", "b"),
    "label": ("--label 3", "3"),
    "labels": ("--labels no,yes", ("no", "yes")),
    "regression": ("--regression", True),
    "max_length": ("--max-length 64", 64),
    "minutes": ("--minutes 0.5", 0.5),
    "steps": ("--steps 100", 100),
    "epochs": ("--epochs 2.5", 2.5),
    "unlabelled": ("--unlabelled more.tsv", "more.tsv"),
    "token_noise": ("--token-noise 0.25", 0.25),
    "batch_tokens": ("--batch-tokens 480", 480),
    "vector_rate": ("--vector-rate 4", 4.0),
    "bits": ("--bits 32-32-32,1-1-4,1-1-1", ("32-32-32", "1-1-4", "1-1-1")),
    "shares": ("--shares 1,2.5,3", (1.0, 2.5, 3.0)),
    "label_weight": ("--label-weight 0.5", 0.5),
    "hidden_weight": ("--hidden-weight 2", 2.0),
    "attention_weight": ("--attention-weight 1e-3", 1e-3),
    "activation": ("--activation gelu", "gelu"),
    "batch_size": ("--batch-size 8", 8),
    "learning_rate": ("--learning-rate 1e-3", 1e-3),
    "seed": ("--seed 1", 1),
    "evaluate_every": ("--evaluate-every 50", 50),
    "bf16": ("--no-bf16", False),
    "threads": ("--threads 2", 2),
    "licence": ("--licence 'Apache 2.0'", "Apache 2.0"),
    "plot": ("--plot", True),
    "resume": ("--resume", True),
    "show_progress_bar": ("--show-progress-bar", True),
    "reinitialize_pooler": ("--reinitialize-pooler", True),
    "dropout": ("--dropout 0", 0.0),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_every_argument_has_its_option(command: str, trainer: Trainer) -> None:
    excluded = ("minutes", "steps", "labels")  # by others
    names = [name for name in names_of(command)[4:] if name not in excluded]
    assert {*names_of("distill")[4:], *names_of("finetune")[4:]} == GIVEN.keys()
    words = [word for name in names for word in shlex.split(GIVEN[name][0])]
    assert main([command, "in", *FILES, *words]) == 0
    (call,) = trainer.calls
    assert {name: call[name] for name in names} == {name: GIVEN[name][1] for name in names}
    assert not {*excluded} & call.keys()


@pytest.mark.parametrize("name", ["minutes", "steps", "labels"])
def test_arguments_that_exclude_others(name: str, trainer: Trainer) -> None:
    assert main(["distill", "in", *FILES, *GIVEN[name][0].split()]) == 0
    assert {"minutes", "steps", "epochs", "labels"} & trainer.calls[0].keys() == {name}
    assert trainer.calls[0][name] == GIVEN[name][1]


@pytest.mark.parametrize("command", OPTIONS)
def test_options_are_the_arguments_of_the_functions(command: str) -> None:
    module = f"bitinfer.train.{HOMES[command]}"
    pytest.importorskip("torch", reason="training needs it")
    pytest.importorskip("transformers", reason="training needs it")
    function = getattr(importlib.import_module(module), command)
    parameters = inspect.signature(function).parameters
    assert {*parameters} == {*names_of(command)}
    assert [*parameters][:4] == [*names_of(command)[:4]]


@pytest.mark.parametrize("report", [distilled(), finetuned()])
def test_the_recipe_is_the_command(report: TrainingReport, trainer: Trainer) -> None:
    command = recipe(report).splitlines()[1]
    assert main(shlex.split(command)[1:]) == 0
    options = OPTIONS[report.command](**report.options).given()
    given = {**options, "show_progress_bar": False}
    del given["resume"]
    assert trainer.calls == [given]


def test_recipes_with_words_that_look_like_options(trainer: Trainer) -> None:
    options = {"teacher": "in", "train": "-a", "dev": "--b", "output": "o p", "labels": ("-1", "1")}
    command = recipe(distilled(options=options)).splitlines()[1]
    assert main(shlex.split(command)[1:]) == 0
    assert trainer.calls == [{**options, "batch_size": 32, "show_progress_bar": False}]


# ---- what is printed


def test_distill_prints_the_table_and_what_is_next(trainer: Trainer, capsys: Capture) -> None:
    assert main(["distill", "in", *FILES[:-1], "my out"]) == 0
    table = distilled().table()
    expected = f"{table}\n\nnext: bitinfer predict 'my out' \"some text\"\n"
    assert capsys.readouterr() == (expected, "")
    trainer.report = distilled(pairs=True)
    assert main(["distill", "in", *FILES]) == 0
    assert capsys.readouterr().out.endswith("predict out --pair-sep '|' \"one text|another\"\n")


def test_a_difference_is_a_failed_check(trainer: Trainer, capsys: Capture) -> None:
    packed = distilled().packed
    assert packed is not None
    parity = Parity(1, 2, 3, 1, "layer.0.query", 0.5)
    trainer.report = distilled(packed=replace(packed, parity=parity))
    assert main(["distill", "in", *FILES]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED: ")


def test_finetune_prints_the_table_and_what_is_next(trainer: Trainer, capsys: Capture) -> None:
    options = ["--text", "a b", "--labels", "no,yes", "--epochs", "1", "--max-length", "64"]
    assert main(["finetune", "in", *FILES[:-1], "out/", *options]) == 0
    table, command = capsys.readouterr().out.split("\n\n")
    assert table == finetuned().table()
    assert command == (
        "next: bitinfer distill out --train train.tsv --dev dev.tsv -o out-1bit --text 'a b' "
        "--labels no,yes --max-length 64\n"
    )


def test_progress_is_shown_on_a_terminal(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["distill", "in", *FILES]) == 0
    assert main(["distill", "in", *FILES, "--no-show-progress-bar"]) == 0
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["distill", "in", *FILES]) == 0
    assert [call["show_progress_bar"] for call in trainer.calls] == [True, False, False]


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from bitinfer.cli import main\n"
        "for command in ('distill', 'finetune', 'predict'):\n"
        "    assert main([command, '--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill"], "required: TEACHER, --train, --dev, -o/--output"),
        (["finetune"], "required: ENCODER, --train, --dev, -o/--output"),
        (["distill", "in", *FILES, "more"], "unrecognized arguments: more"),
        (["distill", "in", *FILES, "--text", "a", "more"], "unrecognized arguments: more"),
        (["distill", "in", *FILES, "--dropout", "0.1"], "unrecognized arguments: --dropout"),
        (["finetune", "in", *FILES, "--bits", "1-1-1"], "unrecognized arguments: --bits"),
        (["distill", "in", *FILES, "--steps", "1", "--epochs", "1"], "not allowed with argument"),
        (["distill", "in", *FILES, "--minutes", "1", "--steps", "1"], "not allowed with argument"),
        (["distill", "in", *FILES, "--minutes", "0"], "--minutes: found 0, expected a finite"),
        (["distill", "in", *FILES, "--minutes", "1h"], "--minutes: found '1h', expected a number"),
        (["distill", "in", *FILES, "--steps", "1.5"], "--steps: found '1.5', expected an integer"),
        (["distill", "in", *FILES, "--steps", "0"], "found 0, expected 1..9007199254740992"),
        (["distill", "in", *FILES, "--hidden-weight", "nan"], "a finite number of at least 0"),
        (["distill", "in", *FILES, "--activation", "tanh"], "found 'tanh', expected 'relu' or"),
        (["distill", "in", *FILES, "--bits", ""], "found '', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1-2,"], "found '', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1-2, 1-1-1"], "found ' 1-1-1', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1-1,1-1-8"], "found 1-1-8 last, expected bits"),
        (["distill", "in", *FILES, "--shares", "1,0,1"], "--shares: found 0, expected a finite"),
        (
            ["distill", "in", *FILES, "--shares", "1,,1"],
            "found '1,,1', expected a number, or several",
        ),
        (["distill", "in", *FILES, "--labels", "yes"], "found ['yes'], expected two or more"),
        (["distill", "in", *FILES, "--labels", "a,b,a"], "found 'a' again, expected names that"),
        (["distill", "in", *FILES, "--labels", "a,"], "found '', expected a name without blanks"),
        (["finetune", "in", *FILES, "--batch-tokens", "9"], "unrecognized arguments"),
        (["finetune", "in", *FILES, "--unlabelled", "x.tsv"], "unrecognized arguments"),
    ],
)
def test_usage_errors(
    arguments: list[str], message: str, trainer: Trainer, capsys: Capture
) -> None:
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"usage: bitinfer {arguments[0]} ")
    assert message in errors.splitlines()[-1]
    assert trainer.calls == []


@pytest.mark.parametrize(("bits", "stages"), [([], 3), (["--bits", "1-1-1"], 1)])
def test_a_share_for_each_stage(
    bits: list[str], stages: int, trainer: Trainer, capsys: Capture
) -> None:
    assert main(["distill", "in", *FILES, "--shares", "1,2", *bits]) == 2
    message = f"shares: found 2, expected {stages}, one for each stage of bits"
    assert capsys.readouterr() == ("", f"bitinfer: error: {message}\n")
    assert trainer.calls == []


def test_ctrl_c_says_how_to_go_on(trainer: Trainer, capsys: Capture) -> None:
    trainer.error = KeyboardInterrupt()
    assert main(["distill", "in", *FILES]) == 130
    assert capsys.readouterr() == (
        "",
        "bitinfer: stopped; the same command with --resume goes on\n",
    )


def test_labels_of_a_regression(trainer: Trainer, capsys: Capture) -> None:
    assert main(["distill", "in", *FILES, "--labels", "a,b", "--regression"]) == 2
    assert "labels: found ['a', 'b'], expected none for a regression" in capsys.readouterr().err
    assert trainer.calls == []


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize("missing", [["torch"], ["torch", "transformers"]])
def test_missing_packages(
    command: str, missing: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delitem(vars(bitinfer.train), command, raising=False)
    for package in ("torch", "transformers"):
        # None is as if it were not installed; anything else only has to be found.
        module = None if package in missing else importlib.util
        monkeypatch.setitem(sys.modules, package, module)  # type: ignore[arg-type]
    assert main([command, "in", *FILES]) == 3
    assert capsys.readouterr().err == (
        f"bitinfer: error: training needs {' and '.join(missing)}, which this Python does not "
        "have: pip install bitinfer[train]\n"
    )


# ---- checks that the functions share with the commands


PATHS = ("model", "train.tsv", "dev.tsv", "out")


def test_bits() -> None:
    given = ("32-1-4", "1-1-1+query=4+key=4+value=4+attention.probs=4")
    assert DistillOptions(*PATHS, bits=given).bits == ("32-1-4", "1-1-1+attention=4")
    wrongs = ("1-8-1", "8-1-1", "0-1-1", "1-1-0", "1-1-9", "1-1-16", "1-1-\u0661", "1-1", "1-1-1 ")
    for wrong in wrongs:
        with pytest.raises(InputError, match=f"bits: found '{wrong}', expected W-E-A"):
            DistillOptions(*PATHS, bits=[wrong])
    with pytest.raises(InputTypeError, match=r"bits\[0\]: found int, expected str"):
        DistillOptions(*PATHS, bits=[111])  # type: ignore[list-item]


def test_shares() -> None:
    for shares, steps in ((None, [2, 2, 2]), ([1, 1, 4], [1, 1, 4]), ([0.1, 0.2, 0.3], [1, 2, 3])):
        options = DistillOptions(*PATHS, shares=shares, steps=6)
        assert [options.progress(share, 3, 0, 1) for _, share in options.stages] == [
            min(1, 3 / step) for step in steps
        ]
    for wrong, error, message in (
        ([0, 1, 1], InputError, r"shares\[0\]: found 0, expected a finite number above 0"),
        (["1", 1, 1], InputTypeError, r"shares\[0\]: found str, expected a number"),
    ):
        with pytest.raises(error, match=message):
            DistillOptions(*PATHS, shares=wrong)


def test_stages() -> None:
    options = DistillOptions(*PATHS, bits=["1-1-2", "1-1-1"], shares=[1, 3])
    assert [str(bits) for bits, _ in options.stages] == ["1-1-2", "1-1-1"]
    assert [share for _, share in options.stages] == [0.25, 0.75]


def test_budget() -> None:
    given: dict[str, Any]
    for kind, given, used in (
        (FinetuneOptions, {}, 6 / 30),
        (DistillOptions, {}, 6 / 120),
        (FinetuneOptions, {"minutes": 2}, 30 / 120),
        (FinetuneOptions, {"steps": 8}, 6 / 8),
        (FinetuneOptions, {"epochs": 1.5}, 6 / 15),
        (FinetuneOptions, {"epochs": 1e-9}, 1),
    ):
        assert kind(*PATHS, **given).progress(1.0, 6, 30.0, 10) == used
    assert FinetuneOptions(*PATHS, minutes=2).progress(0.5, 6, 30.0, 10) == 0.5
    for given, error, message in (
        ({"minutes": 1, "epochs": 1}, InputError, "found minutes and epochs, expected one of"),
        ({"minutes": float("nan")}, InputError, "minutes: found nan, expected a finite number"),
        ({"steps": 0}, InputError, r"steps: found 0, expected 1\.\.9007199254740992"),
        ({"steps": 1.0}, InputTypeError, "steps: found float, expected an integer"),
    ):
        with pytest.raises(error, match=message):
            FinetuneOptions(*PATHS, **given)


def test_help_of_the_functions() -> None:
    """Has every option, as that of the commands."""
    pytest.importorskip("transformers", reason="training needs it")
    for command in OPTIONS:
        lines = inspect.getdoc(getattr(bitinfer.train, command)) or ""
        for name in names_of(command):
            assert f"\n    {name}: " in lines


# ---- the recipes


@pytest.mark.parametrize(
    ("example", "command", "report"),
    [
        ("sst2", "finetune", "teacher.json"),
        ("sst2", "distill", "report.json"),
        ("clinc150", "finetune", "teacher.json"),
        ("clinc150", "distill", "report.json"),
    ],
)
def test_recipes_are_what_was_done(example: str, command: str, report: str) -> None:
    """The options in train.sh are those in the report of the model that is published."""
    pytest.importorskip("torch", reason="training needs it")
    pytest.importorskip("transformers", reason="training needs it")
    folder = Path(__file__).resolve().parents[1] / "examples" / example
    script = (folder / "train.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = script.replace(" $other", "").splitlines()  # what the last argument changes
    starts = (f"bitinfer {each} " for each in ("finetune", "distill"))
    steps = [each for start in starts for each in lines if each.strip().startswith(start)]
    teacher, student = (
        vars(sys.modules["bitinfer.cli.main"]._parse(shlex.split(each)[1:])) for each in steps
    )
    assert student["teacher"] == teacher["output"]
    given = teacher if command == "finetune" else student
    done = json.loads((folder / report).read_text(encoding="utf-8"))["options"]
    usual = inspect.signature(getattr(bitinfer.train, command)).parameters
    elsewhere = {"teacher", "encoder", "train", "dev", "unlabelled", "output"}
    for name in {*usual} - elsewhere - {"resume", "threads", "show_progress_bar"}:
        default = usual[name].default
        default = list(default) if isinstance(default, tuple) else default
        value = list(given[name]) if isinstance(given[name], tuple) else given[name]
        if name == "batch_size" and given.get("batch_tokens") is None:
            value = value or 32
        if value == default:  # what a version knew has not is at its default
            assert done.get(name, default) == default, name
        else:
            assert done[name] == value, name
    for name in ("train", "dev", "unlabelled"):
        if name in usual:
            assert done.get(name) == (given[name] and Path(given[name]).name)
