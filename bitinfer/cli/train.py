"""The commands ``bitinfer distill`` and ``bitinfer finetune``.

Their options are the arguments of the functions of the same names, which also hold the defaults.
Nothing here needs PyTorch before the options are known to be right.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from typing import Any

import bitinfer.train
from bitinfer.cli.arguments import CHECK_FAILED, OK, Command
from bitinfer.train.options import DistillOptions, FinetuneOptions, Options, names_of


@dataclass(frozen=True)
class Distill(DistillOptions, Command):
    r"""Train a packed model of 1 to 4 bits from a float BERT and labelled texts (needs PyTorch).

    examples:
      bitinfer distill bert-sst2/ --train train.tsv --dev dev.tsv -o sst2-1bit/
      bitinfer distill bert-sst2/ --train train.tsv --dev dev.tsv -o sst2-1bit/ --minutes 60
      bitinfer distill bert-nli/ --train nli.jsonl --dev dev.jsonl -o nli-1bit/ \
        --text premise --pair hypothesis --label gold --bits 1-1-2,1-1-1 --shares 1,2

    A TEACHER with no classification head is fine-tuned first, into OUT.teacher, as long and as fast
    as `bitinfer finetune` does by default. Each student learns from the one before, the first from
    the teacher.

    tables: as those of `bitinfer verify`, see its help. In OUT: the model, its card and report
    (README.md), log.jsonl.
    """

    def run(self) -> int:
        report = _train(self)
        if not report.packed.parity.exact:
            print("FAILED: the packed engine and the float64 reference differ, see README.md")
            return CHECK_FAILED
        text = "--pair-sep '|' \"one text|another\"" if report.pairs else '"some text"'
        print(f"next: bitinfer predict {shlex.quote(str(self.output))} {text}")
        return OK


@dataclass(frozen=True)
class Finetune(FinetuneOptions, Command):
    r"""Train a float BERT with a classification head, to be a teacher (needs PyTorch).

    examples:
      bitinfer finetune minilm/ --train train.tsv --dev dev.tsv -o bert-sst2/
      bitinfer finetune minilm/ --train train.csv --dev dev.csv -o scores/ --regression
      bitinfer finetune minilm/ --train train.tsv --dev dev.tsv -o bert-sst2/ \
        --reinitialize-pooler --epochs 2 --learning-rate 1e-4

    tables: as those of `bitinfer verify`, see its help. In OUT: the model, its card and report
    (README.md), log.jsonl.
    """

    def run(self) -> int:
        from bitinfer.train.pages import option_words  # every command would wait for this import

        _train(self)
        given, out = self.given(), str(self.output).rstrip("/")
        words = [out, "--train", str(self.train), "--dev", str(self.dev), "-o", f"{out}-1bit"]
        for name in names_of(self.command, "data"):
            words += option_words(name, given[name]) if name in given else []
        print(f"next: bitinfer distill {shlex.join(words)}")
        return OK


def _train(options: Options) -> Any:
    """Run the function with what was given, and print the table of its report."""
    given = options.given()
    if options.show_progress_bar is None:
        given["show_progress_bar"] = sys.stderr is not None and sys.stderr.isatty()
    try:
        report = getattr(bitinfer.train, options.command)(**given)
    except KeyboardInterrupt:
        print("bitinfer: stopped; the same command with --resume goes on", file=sys.stderr)
        raise
    print(report.table())
    print()
    return report
