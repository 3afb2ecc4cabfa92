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
from bitinfer import cli
from bitinfer.cli import main
from bitinfer.errors import ConversionError, InputError, InputTypeError, UnsupportedError
from bitinfer.train.markdown import recipe
from bitinfer.train.options import (
    ARGUMENTS,
    BATCH_SIZE,
    Bits,
    Budget,
    check_bits,
    check_budget,
    check_installed,
    check_number,
    check_shares,
    parse_bits,
)
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
            given = dict(zip(ARGUMENTS[command], arguments, strict=False))
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
    assert trainer.calls == [{"teacher": "teacher", **files}, {"encoder": "encoder", **files}]


GIVEN: dict[str, tuple[str, Any]] = {
    "text": ("--text a", "a"),
    "pair": ("--pair-column b", "b"),
    "label": ("--label 3", "3"),
    "labels": ("--labels no,yes", ["no", "yes"]),
    "regression": ("--regression", True),
    "max_length": ("--max-length 64", 64),
    "minutes": ("--minutes 0.5", 0.5),
    "steps": ("--steps 100", 100),
    "epochs": ("--epochs 2.5", 2.5),
    "unlabelled": ("--unlabelled more.tsv", "more.tsv"),
    "token_noise": ("--token-noise 0.25", 0.25),
    "batch_tokens": ("--batch-tokens 480", 480),
    "vector_rate": ("--vector-rate 4", 4.0),
    "bits": ("--bits 32-32-32,1-1-4,1-1-1", ["32-32-32", "1-1-4", "1-1-1"]),
    "shares": ("--shares 1,2.5,3", [1.0, 2.5, 3.0]),
    "label_weight": ("--label-weight 0", 0.0),
    "hidden_weight": ("--hidden-weight 2", 2.0),
    "attention_weight": ("--attention-weight 1e-3", 1e-3),
    "activation": ("--activation gelu", "gelu"),
    "batch_size": ("--batch-size 8", 8),
    "learning_rate": ("--learning-rate 1e-3", 1e-3),
    "seed": ("--seed 0", 0),
    "evaluate_every": ("--evaluate-every 50", 50),
    "bf16": ("--no-bf16", False),
    "threads": ("--threads 2", 2),
    "licence": ("--licence 'Apache 2.0'", "Apache 2.0"),
    "resume": ("--resume", True),
    "show_progress_bar": ("--show-progress-bar", True),
    "reinitialize_pooler": ("--reinitialize-pooler", True),
    "dropout": ("--dropout 0", 0.0),
}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_argument_has_its_option(command: str, trainer: Trainer) -> None:
    excluded = ("minutes", "steps", "labels")  # by others
    names = [name for name in ARGUMENTS[command][4:] if name not in excluded]
    assert {*ARGUMENTS["distill"][4:], *ARGUMENTS["finetune"][4:]} == GIVEN.keys()
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


@pytest.mark.parametrize("command", ARGUMENTS)
def test_options_are_the_arguments_of_the_functions(command: str) -> None:
    module = f"bitinfer.train.{HOMES[command]}"
    pytest.importorskip("torch", reason="training needs it")
    pytest.importorskip("transformers", reason="training needs it")
    function = getattr(importlib.import_module(module), command)
    parameters = inspect.signature(function).parameters
    assert {*parameters} == {*ARGUMENTS[command]}
    assert [*parameters][:4] == [*ARGUMENTS[command][:4]]


@pytest.mark.parametrize("report", [distilled(), finetuned()])
def test_the_recipe_is_the_command(report: TrainingReport, trainer: Trainer) -> None:
    command = recipe(report).splitlines()[1]
    assert main(shlex.split(command)[1:]) == 0
    plain = report.asdict()["options"]
    given = {name: value for name, value in plain.items() if value not in (None, False)}
    given |= {"bf16": False, "show_progress_bar": False}
    del given["resume"]
    assert trainer.calls == [given]


def test_recipes_with_words_that_look_like_options(trainer: Trainer) -> None:
    options = {"teacher": "in", "train": "-a", "dev": "--b", "output": "o p", "labels": ["-1", "1"]}
    command = recipe(distilled(options=options)).splitlines()[1]
    assert main(shlex.split(command)[1:]) == 0
    assert trainer.calls == [{**options, "show_progress_bar": False}]


# ---- what is printed


def test_distill_prints_the_table_and_what_is_next(trainer: Trainer, capsys: Capture) -> None:
    assert main(["distill", "in", *FILES[:-1], "my out"]) == 0
    table = distilled().table()
    expected = f"{table}\n\nnext: bitinfer predict 'my out' \"some text\"\n"
    assert capsys.readouterr() == (expected, "")
    trainer.report = distilled(pairs=True)
    assert main(["distill", "in", *FILES]) == 0
    assert capsys.readouterr().out.endswith("predict out --pair-sep '|' \"one text|another\"\n")


def test_distill_to_more_bits(trainer: Trainer, capsys: Capture) -> None:
    trainer.report = distilled(packed=None)
    assert main(["distill", "in", *FILES, "--bits", "1-1-2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("only a last stage of 1-1-1 can be")


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
        (["distill", "in", *FILES, "--labels", "a,b", "--regression"], "not allowed with argument"),
        (["distill", "in", *FILES, "--minutes", "0"], "--minutes: found '0', expected a number ab"),
        (["distill", "in", *FILES, "--minutes", "inf"], "expected a number above 0"),
        (["distill", "in", *FILES, "--minutes", "nan"], "expected a number above 0"),
        (["distill", "in", *FILES, "--minutes", "1h"], "expected a number above 0"),
        (["distill", "in", *FILES, "--epochs", "-1"], "expected a number above 0"),
        (["distill", "in", *FILES, "--steps", "1.5"], "expected an integer of at least 1"),
        (["distill", "in", *FILES, "--steps", "0"], "expected an integer of at least 1"),
        (["distill", "in", *FILES, "--batch-size", "0"], "expected an integer of at least 1"),
        (["distill", "in", *FILES, "--evaluate-every", "0"], "expected an integer of at least 1"),
        (["distill", "in", *FILES, "--max-length", "x"], "expected an integer of at least 1"),
        (["distill", "in", *FILES, "--threads", "0"], "expected an integer of at least 1"),
        (["distill", "in", *FILES, "--seed", "-1"], "expected an integer of at least 0"),
        (["distill", "in", *FILES, "--learning-rate", "0"], "expected a number above 0"),
        (["distill", "in", *FILES, "--label-weight", "-1"], "expected a number of at least 0"),
        (["distill", "in", *FILES, "--hidden-weight", "nan"], "expected a number of at least 0"),
        (["distill", "in", *FILES, "--attention-weight", "inf"], "expected a number of at least 0"),
        (["distill", "in", *FILES, "--activation", "tanh"], "--activation: invalid choice: 'tanh'"),
        (["distill", "in", *FILES, "--bits", ""], "--bits: found '', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1"], "--bits: found '1-1', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1-2,"], "--bits: found '', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1-2, 1-1-1"], "found ' 1-1-1', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1-9"], "found '1-1-9', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "0-1-1"], "found '0-1-1', expected W-E-A"),
        (["distill", "in", *FILES, "--bits", "1-1-16"], "1 or 32, and 1..8 or 32"),
        (["distill", "in", *FILES, "--bits", "1-1-\u0661"], "1 or 32, and 1..8 or 32"),
        (["distill", "in", *FILES, "--shares", "1,0,1"], "--shares: found '0', expected a number"),
        (["distill", "in", *FILES, "--shares", "1,,1"], "--shares: found '', expected a number"),
        (["distill", "in", *FILES, "--labels", "yes"], "expected at least two different names"),
        (["distill", "in", *FILES, "--labels", "a,b,a"], "expected at least two different names"),
        (["distill", "in", *FILES, "--labels", "a,"], "expected at least two different names"),
        (["distill", "in", *FILES, "--token-noise", "0.5"], "a number from 0 to below 0.5"),
        (["distill", "in", *FILES, "--token-noise", "-1"], "a number from 0 to below 0.5"),
        (["distill", "in", *FILES, "--batch-tokens", "0"], "--batch-tokens: found '0', expected"),
        (["finetune", "in", *FILES, "--batch-tokens", "9"], "unrecognized arguments"),
        (["finetune", "in", *FILES, "--unlabelled", "x.tsv"], "unrecognized arguments"),
        (["finetune", "in", *FILES, "--dropout", "1"], "expected a number from 0 to below 1"),
        (["finetune", "in", *FILES, "--dropout", "-0.1"], "expected a number from 0 to below 1"),
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
    message = f"--shares: found 2, expected {stages}, one for each stage"
    assert capsys.readouterr() == ("", f"bitinfer: error: {message}\n")
    assert trainer.calls == []


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("dev.tsv, line 3: found 1 columns"), 2),
        (FileExistsError("out exists"), 2),
        (ConversionError("config: found 'tanh'"), 3),
        (UnsupportedError("needs matplotlib: pip install bitinfer[train]"), 3),
    ],
)
def test_errors_of_training(
    command: str, error: Exception, code: int, trainer: Trainer, capsys: Capture
) -> None:
    trainer.error = error
    assert main([command, "in", *FILES]) == code
    assert capsys.readouterr() == ("", f"bitinfer: error: {error}\n")


def test_ctrl_c_says_how_to_go_on(trainer: Trainer, capsys: Capture) -> None:
    trainer.error = KeyboardInterrupt()
    assert main(["distill", "in", *FILES]) == 130
    assert capsys.readouterr() == (
        "",
        "bitinfer: stopped; the same command with --resume goes on\n",
    )


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize("missing", [["torch"], ["transformers", "matplotlib"]])
def test_missing_packages(
    command: str, missing: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delitem(vars(bitinfer.train), command, raising=False)
    for package in ("torch", "transformers", "matplotlib"):
        # None is as if it were not installed; anything else only has to be found.
        module = None if package in missing else importlib.util
        monkeypatch.setitem(sys.modules, package, module)  # type: ignore[arg-type]
    assert main([command, "in", *FILES]) == cli.CANNOT
    assert capsys.readouterr().err == (
        f"bitinfer: error: training needs {' and '.join(missing)}, which this Python does not "
        "have: pip install bitinfer[train]\n"
    )


# ---- checks that the functions share with the commands


def test_bits() -> None:
    assert parse_bits("32-1-4") == Bits(32, 1, 4) == (32, 1, 4)
    assert check_bits(("1-1-2", "1-1-1")) == (Bits(1, 1, 2), Bits(1, 1, 1))
    with pytest.raises(InputError, match=r"bits: found '1-1-1 ', expected W-E-A"):
        check_bits(["1-1-1 "])
    with pytest.raises(InputError, match="bits: found no stage"):
        check_bits([])
    with pytest.raises(InputTypeError, match="bits: found '1-1-1', expected a list"):
        check_bits("1-1-1")
    with pytest.raises(InputTypeError, match="bits: found int, expected str"):
        check_bits([111])  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match=r"bits: found <.*, expected a list"):
        check_bits(iter(["1-1-1"]))  # type: ignore[arg-type]
    for wrong in ("1-8-1", "8-1-1", "1-1-0", "1-1-9"):
        with pytest.raises(InputError, match=f"bits: found '{wrong}', expected W-E-A"):
            check_bits([wrong])


def test_shares() -> None:
    assert check_shares(None, 4) == (0.25,) * 4
    assert check_shares((2, 6), 2) == (0.25, 0.75)
    with pytest.raises(InputError, match="shares: found 1, expected 2, one for each stage"):
        check_shares([1], 2)
    with pytest.raises(InputError, match="shares: found 0, expected a finite number above 0"):
        check_shares([0, 1], 2)
    with pytest.raises(InputTypeError, match="shares: found str, expected a number"):
        check_shares(["1"], 1)  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match="shares: found 1, expected a list"):
        check_shares(1, 1)  # type: ignore[arg-type]


def test_budget() -> None:
    assert check_budget(None, None, None, default_epochs=3.0) == Budget(epochs=3.0)
    assert check_budget(2, None, None, default_epochs=3.0) == Budget(minutes=2.0)
    assert check_budget(None, 2, None, default_epochs=3.0) == Budget(steps=2)
    assert check_budget(None, None, 0.5, default_epochs=3.0) == Budget(epochs=0.5)
    with pytest.raises(InputError, match="found minutes and epochs, expected one of"):
        check_budget(1, None, 1, default_epochs=3.0)
    with pytest.raises(InputError, match="minutes: found nan, expected a finite number above 0"):
        check_budget(float("nan"), None, None, default_epochs=3.0)
    with pytest.raises(InputError, match=r"steps: found 0, expected 1\.\.9007199254740992"):
        check_budget(None, 0, None, default_epochs=3.0)
    with pytest.raises(InputTypeError, match="steps: found float, expected an integer"):
        check_budget(None, 1.0, None, default_epochs=3.0)  # type: ignore[arg-type]


def test_numbers() -> None:
    assert check_number("x", 0, low=0) == 0.0
    assert check_number("x", -5) == -5.0
    for value in (True, "1", b"1", None, 1j, [1]):
        with pytest.raises(InputTypeError, match=r"x: found \w+, expected a number"):
            check_number("x", value)
    with pytest.raises(InputError, match=r"x: found inf, expected a finite number$"):
        check_number("x", float("inf"))
    with pytest.raises(InputError, match="x: found -1, expected a finite number of at least 0"):
        check_number("x", -1, low=0)


def test_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsupportedError, match="training needs torch"):
        check_installed()


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
    lines = (folder / "train.sh").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    starts = (f"bitinfer {each} " for each in ("finetune", "distill"))
    steps = [each for start in starts for each in lines if each.strip().startswith(start)]
    teacher, student = (vars(cli._parser().parse_args(shlex.split(each)[1:])) for each in steps)
    assert student["teacher"] == teacher["output"]
    given = teacher if command == "finetune" else student
    done = json.loads((folder / report).read_text(encoding="utf-8"))["options"]
    usual = inspect.signature(getattr(bitinfer.train, command)).parameters
    elsewhere = {"teacher", "encoder", "train", "dev", "unlabelled", "output"}
    for name in {*usual} - elsewhere - {"resume", "threads", "show_progress_bar"}:
        default = usual[name].default
        if name == "batch_size" and given.get("batch_tokens") is None:
            default = BATCH_SIZE
        if given[name] is None:
            assert done.get(name, default) == default, name
        else:
            assert done[name] == given[name], name
    for name in ("train", "dev", "unlabelled"):
        if name in usual:
            assert done.get(name) == (given[name] and Path(given[name]).name)
