"""The commands that make, show, check and time model files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import bitinfer
from bitinfer.cli.arguments import CANNOT, CHECK_FAILED, MODEL, OK, Command, Loaded
from bitinfer.data.columns import Columns
from bitinfer.errors import InputError
from bitinfer.fields import (
    BOOL,
    FILE,
    NAMES,
    TEXT,
    argument,
    choice,
    integer,
    list_of,
    number,
    option,
)

if TYPE_CHECKING:
    from bitinfer.data.tables import LabelledTexts
    from bitinfer.runtime.format import Tensors


_COUNTS = list_of(integer(1))


@dataclass(frozen=True, kw_only=True)
class _CheckpointFiles:
    """What a checkpoint folder does not hold."""

    config: str | None = option(None, FILE, "config.json, if the checkpoint has none")
    vocab: str | None = option(None, FILE, "vocab.txt, if the checkpoint has none")
    bits: str | None = option(None, TEXT, "such as 1-1-2, if its config.json does not tell")


@dataclass(frozen=True, kw_only=True)
class Convert(_CheckpointFiles, Command):
    """Convert a BiT checkpoint to a packed file.

    examples:
      bitinfer convert bit-sst2/ sst2.safetensors --labels negative,positive
      bitinfer convert mnli.pt mnli.safetensors --config config.json --vocab vocab.txt --task mnli
    """

    source: str = argument("SRC", "checkpoint folder, or .bin / .pt file")
    destination: str = argument("DST", "packed file to make")
    task: str | None = option(None, TEXT, "GLUE task or squad: gives labels and length")
    labels: tuple[str, ...] | None = option(None, NAMES, "names of the classes in order")
    max_length: int | None = option(None, integer(1), "tokens a text is cut to")
    licence: str | None = option(None, TEXT, "licence of the checkpoint, recorded in the file")
    overwrite: bool = option(False, BOOL, "replace DST if it exists")
    verify: bool = option(True, BOOL, "do not compare the result with the float64 reference")

    def run(self) -> int:
        options = asdict(self)
        print(bitinfer.convert(options.pop("source"), options.pop("destination"), **options))
        return OK


@dataclass(frozen=True, kw_only=True)
class ExportFloat(Command):
    """Write a packed model as a float checkpoint folder of the same meaning (needs PyTorch).

    examples:
      bitinfer export-float sst2.safetensors sst2-float/
    """

    source: str = argument("SRC", "packed file or built-in name")
    destination: str = argument("DST", "folder to make")

    def run(self) -> int:
        from bitinfer.runtime.origin import find_model

        bitinfer.export_float(find_model(self.source).path, self.destination)
        return OK


@dataclass(frozen=True, kw_only=True)
class Info(Loaded, Command):
    """Show what a model is, what is in its file, and how large each part is.

    examples:
      bitinfer info sst2
      bitinfer info sst2.safetensors --json
    """

    json: bool = option(False, BOOL, "as JSON")

    def run(self) -> int:
        from bitinfer.diagnostics import format_lines

        info = bitinfer.load(self.model, num_threads=self.num_threads, isa=self.isa).info()
        if self.json:
            print(json.dumps(info, indent=2))
            return OK
        sizes = info.pop("bytes")
        width = max(map(len, sizes))
        table = [f"  {part:<{width}}  {size:>12,}" for part, size in sizes.items()]
        print("\n".join([*format_lines(info), "bytes:", *table]))
        return OK


@dataclass(frozen=True, kw_only=True)
class Verify(_CheckpointFiles, Columns, Command):
    """Compare a packed file with the float64 reference, code by code (needs PyTorch).

    examples:
      bitinfer verify sst2.safetensors --checkpoint bit-sst2/
      bitinfer verify sst2 --data dev.tsv --at-least 0.8 --no-parity
      bitinfer verify sst2 --data plain.tsv --text 2 --label 1
      bitinfer verify sst2 --data reviews.jsonl --text review --no-parity

    data: a file .csv (commas, quotes as in RFC 4180), .jsonl (one object a line, whose keys
    are the columns), or any other (one row a line, tabs, no quoting), in UTF-8. The first
    row names the columns; by default sentence (or sentence1 and sentence2, premise and
    hypothesis, text, ...) and label are used. Columns given by number mean that there is no
    row of names. A label is the name of a class or its index.
    """

    model: str = argument("MODEL", MODEL)
    checkpoint: str | None = option(None, FILE, "compare with this checkpoint instead")
    data: str | None = option(None, FILE, "labelled texts: report the accuracy")
    at_least: float | None = option(None, number(), "fail if the result is lower")
    parity: bool = option(True, BOOL, "only look at the data; needs no PyTorch")

    def run(self) -> int:
        from bitinfer.data.evaluation import evaluate
        from bitinfer.runtime.model import BitModel
        from bitinfer.runtime.origin import find_model, read_model

        data = self._read_data()
        if not self.parity and (data is None or self.checkpoint is not None):
            found = "without --data" if data is None else "beside --checkpoint"
            raise InputError(f"--no-parity: found {found}, expected --data alone")
        origin = find_model(self.model)
        metadata, tensors = content = read_model(origin)
        model = BitModel(origin, content=content)  # checks the tensors as well
        if "sha256" in metadata:
            print(f"file: intact, SHA-256 {metadata['sha256']}")
        result = None if data is None else evaluate(model, data)
        passed = not self.parity or self._has_parity(metadata, tensors)
        if result is not None:
            print(f"data: {result}")
            passed &= self.at_least is None or result.value >= self.at_least
        print("passed" if passed else "FAILED")
        return OK if passed else CHECK_FAILED

    def _read_data(self) -> LabelledTexts | None:
        from bitinfer.data.tables import read_rows

        if self.data is not None:
            return read_rows(self.data, self)
        for name in ("text", "pair", "label", "at_least"):
            if (value := getattr(self, name)) is not None:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag}: found {value!r} without --data, expected both")
        return None

    def _has_parity(self, metadata: dict[str, Any], tensors: Tensors) -> bool:
        """Whether the engine computes what the model, or the checkpoint, means; is printed."""
        from bitinfer.conversion.packing import from_tensors, to_metadata
        from bitinfer.conversion.parity import measure_parity
        from bitinfer.families import read_checkpoint

        if self.checkpoint is None:
            description = from_tensors(tensors, metadata)
        else:
            description = read_checkpoint(
                self.checkpoint, config=self.config, vocab=self.vocab, bits=self.bits
            )
            same = description.source_sha256 == metadata["source"]["sha256"]
            print(f"checkpoint: {'' if same else 'not '}the file this model was converted from")
            expected = to_metadata(description)
            if any(expected[key] != metadata[key] for key in ("config", "codes")):
                print("checkpoint: its sizes and kinds are not those of this model")
                return False
        parity = measure_parity(description, tensors)
        print(f"parity: {parity}")
        return parity.exact


@dataclass(frozen=True, kw_only=True)
class Bench(Command):
    """Measure the speed of a model: the product of all lists given.

    examples:
      bitinfer bench sst2 -b 1,8,32 -l 32,128 -t 1,2
      bitinfer bench base.safetensors -l 128 --isa avx2,portable -r 20 -o json
    """

    model: str = argument("MODEL", MODEL)
    batch: tuple[int, ...] = option((1, 8, 32), _COUNTS, "sequences a call", "-b", "--batch")
    length: tuple[int, ...] = option((32, 128), _COUNTS, "tokens a sequence", "-l", "--length")
    threads: tuple[int, ...] | None = option(
        None, _COUNTS, "default: as predict would", "-t", "--threads"
    )
    isa: tuple[str, ...] | None = option(None, NAMES, "default: the one predict would use")
    repetitions: int = option(10, integer(1), "calls that are timed", "-r", "--repetitions")
    output: str = option("md", choice("md", "json", "csv"), "form", "-o", "--output")
    profile: bool = option(False, BOOL, "also the share of time in each stage of the engine")

    def run(self) -> int:
        from bitinfer.cli import bench

        for line in bench.write(self):
            print(line, flush=True)
        return OK


@dataclass(frozen=True, kw_only=True)
class Doctor(Command):
    """Show what a bug report needs, and check that every instruction set gives the same answer.

    examples:
      bitinfer doctor
    """

    json: bool = option(False, BOOL, "as JSON")

    def run(self) -> int:
        from bitinfer.diagnostics import diagnose, format_lines, self_test

        report = {**diagnose(), "self_test": self_test()}
        print(json.dumps(report, indent=2) if self.json else "\n".join(format_lines(report)))
        broken = [value for value in report["self_test"].values() if value != "ok"]
        unusable = [key for key in ("isa", "num_threads") if str(report[key]).startswith("error")]
        return CANNOT if unusable else CHECK_FAILED if broken else OK
