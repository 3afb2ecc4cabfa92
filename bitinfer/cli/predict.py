"""The command ``bitinfer predict``: lines of text in, answers out as soon as they are known."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import bitinfer
from bitinfer.checks import check_text
from bitinfer.cli.arguments import OK, Command, Loaded
from bitinfer.errors import InputError
from bitinfer.fields import FILE, OptionType, argument, choice, integer, option

if TYPE_CHECKING:
    from bitinfer.results import Prediction

# A text, or the two texts of a pair.
_Given: TypeAlias = "str | tuple[str, str | None]"


def _lines_of(form: str, given: _Given, answers: Prediction | list[Prediction]) -> Iterator[str]:
    """What is printed for a text and its best answer, or its ranked ones."""
    texts = given if isinstance(given, tuple) else (given,)
    ranked = answers if isinstance(answers, list) else [answers]
    if form == "jsonl":
        plain = [p.asdict() for p in ranked]
        found = {"predictions": plain} if isinstance(answers, list) else plain[0]
        named = zip(("text", "text_pair"), texts)  # noqa: B905
        yield json.dumps({**found, **dict(named)}, ensure_ascii=False)
        return
    # White space that would break a line becomes spaces.
    columns = [" ".join((text or "").split()) for text in texts]
    if form == "tsv":
        for p in ranked:
            yield "\t".join([p.label or "", repr(p.score), *columns])
    else:
        shown = (f"{p.label or ''} {p.score:.4f}".lstrip() for p in ranked)
        yield f"{'  '.join(shown)}  {' | '.join(columns)}"


@dataclass(frozen=True, kw_only=True)
class Predict(Loaded, Command):
    """Classify texts: arguments, lines of a file, or lines of standard input.

    examples:
      bitinfer predict sst2 "a warm and funny film" "a dull one"
      bitinfer predict sst2 --input reviews.txt --format jsonl > labels.jsonl
      bitinfer predict mnli.safetensors --pair-sep '|||' 'a man sleeps ||| a man runs'
      cut -f2 table.tsv | bitinfer predict sst2 --format tsv --top-k 0

    Texts and output are UTF-8.
    """

    text: tuple[str, ...] = argument("TEXT", "texts; default: lines of stdin", many=True)
    input: str | None = option(None, FILE, "read texts from lines; - is stdin")
    format: str = option(
        "text",
        choice("jsonl", "text", "tsv"),
        "text: for reading; tsv: label, score, text; jsonl: one object a line",
    )
    pair_sep: str | None = option(
        None, OptionType(check_text, metavar="SEP"), "what separates the texts of a pair"
    )
    top_k: int = option(1, integer(0), "classes to show, 0 is all")
    batch_size: int = option(32, integer(1), "texts run together")
    max_length: int | None = option(None, integer(1), "tokens a text is cut to: as the model")

    def run(self) -> int:
        model = bitinfer.load(self.model, num_threads=self.num_threads, isa=self.isa)
        # Errors count the texts of a call from 0: all arguments are one call.
        size = len(self.text) or self.batch_size
        texts = self._texts()
        while batch := list(islice(texts, size)):
            ranked = model.predict(
                batch,
                top_k=self.top_k or None,
                batch_size=self.batch_size,
                max_length=self.max_length,
                show_progress_bar=False,
            )
            for given, answers in zip(batch, ranked, strict=True):
                for line in _lines_of(self.format, given, answers):
                    print(line)
            print(end="", flush=True)  # the next batch may be long in coming
        return OK

    def _texts(self) -> Iterator[_Given]:
        """Texts or pairs from the arguments, a file, or standard input, one a line."""
        if self.text and self.input is not None:
            found = f"--input: found {self.input!r} beside texts as arguments"
            raise InputError(f"{found}, expected one of them")
        separator: Any = self.pair_sep
        if separator == "":
            raise InputError("--pair-sep: found '', expected at least one character")
        if separator == []:  # what argparse made of --pair-sep=-- before Python 3.12
            separator = "--"
        lines = self.text or _lines("-" if self.input is None else self.input)
        if separator is None:
            yield from lines
            return
        for line in lines:
            text, found, pair = line.partition(separator)
            yield text, pair if found else None


def _open_input(path: str) -> AbstractContextManager[BinaryIO]:
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise InputError("standard input is closed: pass texts as arguments, or --input FILE")
    if sys.stdin.isatty():
        print("bitinfer: reading texts, one a line; Ctrl-D ends them", file=sys.stderr)
    return nullcontext(sys.stdin.buffer)


def _lines(path: str) -> Iterator[str]:
    with _open_input(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                raise InputError(f"line {number}: not UTF-8: {error}") from None
