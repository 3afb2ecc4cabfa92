"""The commands ``bitinfer distill`` and ``bitinfer finetune``.

Their options are the arguments of the functions of the same names, which also hold the defaults.
Nothing here needs PyTorch before the options are known to be right.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

import bitinfer.train
from bitinfer.cli.old_arguments import (
    add_command,
    to_count,
    to_fraction,
    to_half,
    to_names,
    to_positive,
    to_positive_number,
    to_weight,
)
from bitinfer.errors import InputError
from bitinfer.train.options import (
    ARGUMENTS,
    BATCH_SIZE,
    DATA,
    DEFAULT_BITS,
    DISTILL_EPOCHS,
    DISTILL_RATE,
    FINETUNE_EPOCHS,
    FINETUNE_RATE,
    parse_bits,
)

if TYPE_CHECKING:
    from bitinfer.train.report import TrainingReport

__all__ = ["add_distill", "add_finetune"]

_OK, _CHECK_FAILED = 0, 1

_TABLES = (
    "tables: .tsv, .csv or .jsonl, UTF-8, columns named in the first line; by default sentence\n"
    "(or sentence1 and sentence2, premise and hypothesis, ...) and label are used. In OUT: the\n"
    "model in the published form and its card (README.md), report.md with a plot, log.jsonl."
)


# ---- what the commands do


def _distill(options: argparse.Namespace) -> int:
    stages = len(options.bits or DEFAULT_BITS)
    if options.shares is not None and len(options.shares) != stages:
        raise InputError(
            f"--shares: found {len(options.shares)}, expected {stages}, one for each stage"
        )
    report = _train("distill", options)
    out = shlex.quote(options.output)
    if report.packed is None:
        print(f"only a last stage of 1-1-1 can be packed: {out} holds the model of the last stage")
        return _OK
    if not report.packed.parity.exact:
        print("FAILED: the packed engine and the float64 reference differ, see report.md")
        return _CHECK_FAILED
    text = "--pair-sep '|' \"one text|another\"" if report.pairs else '"some text"'
    print(f"next: bitinfer predict {out} {text}")
    return _OK


def _finetune(options: argparse.Namespace) -> int:
    from bitinfer.train.markdown import option_words  # every command would wait for this import

    _train("finetune", options)
    out = options.output.rstrip("/")
    words = [out, "--train", options.train, "--dev", options.dev, "-o", f"{out}-1bit"]
    for name in DATA:
        value = getattr(options, name)
        words += [] if value is None else option_words(name, value)
    print(f"next: bitinfer distill {shlex.join(words)}")
    return _OK


def _train(command: str, options: argparse.Namespace) -> TrainingReport:
    """Run the function with what was given, and print the table of its report."""
    given: dict[str, Any] = {
        name: value for name in ARGUMENTS[command] if (value := getattr(options, name)) is not None
    }
    if options.show_progress_bar is None:
        given["show_progress_bar"] = sys.stderr is not None and sys.stderr.isatty()
    positional = [given.pop(name) for name in ARGUMENTS[command][:4]]
    try:
        report: TrainingReport = getattr(bitinfer.train, command)(*positional, **given)
    except KeyboardInterrupt:
        print("bitinfer: stopped; the same command with --resume goes on", file=sys.stderr)
        raise
    print(report.table())
    print()
    return report


# ---- their options


def add_distill(commands: Any) -> None:
    """Add ``bitinfer distill``."""
    parser = add_command(
        commands,
        "distill",
        _distill,
        "train a packed 1-bit model from a float BERT and labelled texts (needs PyTorch)",
        "  bitinfer distill bert-sst2/ --train train.tsv --dev dev.tsv -o sst2-1bit/\n"
        "  bitinfer distill bert-sst2/ --train train.tsv --dev dev.tsv -o sst2-1bit/ --minutes 60\n"
        "  bitinfer distill bert-nli/ --train nli.jsonl --dev dev.jsonl -o nli-1bit/ \\\n"
        "    --text premise --pair hypothesis --label gold --bits 1-1-2,1-1-1 --shares 1,2\n\n"
        "TEACHER is a local Hugging Face folder of BERT architecture. One with no classification\n"
        "head is fine-tuned first, into OUT.teacher, as long and as fast as `bitinfer finetune`\n"
        "does by default. Each student learns from the one before, the first from the teacher.\n"
        f"Also in OUT: the packed file.\n\n{_TABLES}",
    )
    parser.add_argument("teacher", metavar="TEACHER", help="folder of the float model")
    _add_files(parser)
    parser.add_argument(
        "--unlabelled",
        metavar="FILE",
        help="more texts to learn from, whose labels, if any, are not looked at",
    )
    _add_data(parser)
    _add_budget(parser, DISTILL_EPOCHS, "split over the stages")
    stages = parser.add_argument_group("stages and losses")
    stages.add_argument(
        "--bits",
        type=_bits,
        metavar="W-E-A,...",
        help="bits of weights (1 or 32), embeddings (1 or 32) and activations (1..8 or 32) of each "
        f"student: default {','.join(DEFAULT_BITS)}",
    )
    stages.add_argument(
        "--shares",
        type=_shares,
        metavar="X,...",
        help="share of the budget of each stage, in any unit",
    )
    stages.add_argument(
        "--token-noise",
        type=to_half,
        metavar="P",
        help="mean part of a text's tokens to replace by random ones: default 0",
    )
    for name, what, default in (
        ("label", "the labels themselves", 0),
        ("hidden", "hidden states", 1),
        ("attention", "attention scores", 0),
    ):
        shown = f"weight of the loss on {what}: default {default}"
        stages.add_argument(f"--{name}-weight", type=to_weight, metavar="X", help=shown)
    stages.add_argument(
        "--activation", choices=["relu", "gelu"], help="of the students: default relu"
    )
    loop = _add_loop(parser, DISTILL_RATE)
    loop.add_argument(
        "--batch-tokens",
        type=to_positive,
        metavar="N",
        help="most tokens of a step, if no text is longer; of texts then any number, or at most "
        "--batch-size",
    )
    loop.add_argument(
        "--vector-rate",
        type=to_positive_number,
        metavar="X",
        help="learning rate of shifts, steps, biases and norms, as a multiple of the one of "
        "weights: default 1",
    )
    _add_run(parser)


def add_finetune(commands: Any) -> None:
    """Add ``bitinfer finetune``."""
    parser = add_command(
        commands,
        "finetune",
        _finetune,
        "train a float BERT with a classification head, to be a teacher (needs PyTorch)",
        "  bitinfer finetune minilm/ --train train.tsv --dev dev.tsv -o bert-sst2/\n"
        "  bitinfer finetune minilm/ --train train.csv --dev dev.csv -o scores/ --regression\n"
        "  bitinfer finetune minilm/ --train train.tsv --dev dev.tsv -o bert-sst2/ \\\n"
        "    --reinitialize-pooler --epochs 2 --learning-rate 1e-4\n\n"
        "ENCODER is a local Hugging Face folder of BERT architecture, with a head or without.\n\n"
        f"{_TABLES}",
    )
    parser.add_argument("encoder", metavar="ENCODER", help="folder of the model to start from")
    _add_files(parser)
    _add_data(parser)
    _add_budget(parser, FINETUNE_EPOCHS, "of training")
    _add_loop(parser, FINETUNE_RATE)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--reinitialize-pooler",
        action="store_true",
        default=None,
        help="begin with a new pooler, as for an encoder of sentence embeddings, which has none",
    )
    model.add_argument("--dropout", type=to_fraction, metavar="P", help="default 0.1")
    _add_run(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", metavar="FILE", required=True, help="labelled texts to learn")
    parser.add_argument(
        "--dev", metavar="FILE", required=True, help="labelled texts that choose the best step"
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="folder to make")


def _add_data(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    for name, what in (
        ("text", "the text"),
        ("pair", "the second text"),
        ("label", "the label"),
    ):
        shown = f"column of {what}, by name or number"
        data.add_argument(f"--{name}", f"--{name}-column", metavar="NAME|N", help=shown)
    kind = data.add_mutually_exclusive_group()
    kind.add_argument(
        "--labels",
        type=_class_names,
        metavar="A,B",
        help="names of the classes in order: default as found, sorted; for distill, the teacher's",
    )
    kind.add_argument(
        "--regression",
        action="store_true",
        default=None,
        help="the label is a number; the metric is the correlation",
    )
    data.add_argument(
        "--max-length", type=to_positive, metavar="N", help="tokens a text is cut to: default 128"
    )


def _add_budget(parser: argparse.ArgumentParser, epochs: float, of: str) -> None:
    budget = parser.add_argument_group(f"budget {of}, one of").add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=to_positive_number, metavar="X", help="time")
    budget.add_argument("--steps", type=to_positive, metavar="N", help="batches")
    budget.add_argument(
        "--epochs",
        type=to_positive_number,
        metavar="X",
        help=f"passes over the training texts: default {epochs:g}",
    )


def _add_loop(parser: argparse.ArgumentParser, rate: float) -> argparse._ArgumentGroup:
    loop = parser.add_argument_group("training")
    loop.add_argument(
        "--batch-size", type=to_positive, metavar="N", help=f"texts of a step: default {BATCH_SIZE}"
    )
    loop.add_argument(
        "--learning-rate", type=to_positive_number, metavar="X", help=f"default {rate:g}"
    )
    loop.add_argument("--seed", type=to_count, metavar="N", help="of everything random: default 0")
    loop.add_argument(
        "--evaluate-every", type=to_positive, metavar="N", help="steps between looks at dev"
    )
    loop.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="16-bit products where they do not hurt: default where the machine has them",
    )
    loop.add_argument("--threads", type=to_positive, metavar="N", help="default all CPUs")
    return loop


def _add_run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("run")
    run.add_argument("--licence", help="licence of the model, recorded in it and on its card")
    run.add_argument(
        "--resume", action="store_true", default=None, help="go on with a run that was stopped"
    )
    run.add_argument(
        "--show-progress-bar",
        action=argparse.BooleanOptionalAction,
        help="default if standard error is a terminal; OUT.partial/log.jsonl tells the same",
    )


# ---- kinds of values


def _bits(text: str) -> list[str]:
    try:
        return [str(parse_bits(part)) for part in text.split(",")]
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("bits: ")) from None


def _shares(text: str) -> list[float]:
    return [to_positive_number(part) for part in text.split(",")]


def _class_names(text: str) -> list[str]:
    names = to_names(text)
    if "" in names or len({*names}) != len(names) or len(names) < 2:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected at least two different names")
    return names
