"""The command line: ``bitinfer COMMAND`` or ``python -m bitinfer COMMAND``."""

from __future__ import annotations

import argparse
import codecs
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import bitinfer
from bitinfer.cli.arguments import (
    add_command,
    to_count,
    to_names,
    to_number,
    to_positive,
    to_separator,
    to_sizes,
)
from bitinfer.cli.train import add_distill, add_finetune
from bitinfer.errors import (
    BitinferError,
    ConversionError,
    FormatError,
    InputError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from bitinfer.data.tables import LabelledTexts
    from bitinfer.results import Prediction
    from bitinfer.runtime.format import Tensors

__all__ = ["main"]

OK, CHECK_FAILED, USAGE, CANNOT = 0, 1, 2, 3

_DESCRIPTION = """\
Run fully binarized (1-bit) BERT models on the CPU.

  bitinfer convert bit-sst2/ sst2.safetensors --labels negative,positive
  bitinfer predict sst2.safetensors "a warm and funny film"
  bitinfer info sst2.safetensors
  bitinfer distill bert-sst2/ --train train.tsv --dev dev.tsv -o sst2-1bit/

MODEL is a packed file or the folder that `bitinfer distill` put one in, a checkpoint folder or file
(needs PyTorch), or the name of a built-in model.
"""
_MODEL = "packed file, checkpoint or built-in name"
_EXIT_CODES = """\
exit codes:
  0    success
  1    a check failed (verify, doctor, the one at the end of distill)
  2    wrong usage: an option, a text, a path
  3    the machine or build cannot do it, or a file is damaged or not of a known format
  130  stopped by Ctrl-C
  141  nobody reads the output any more (as in `bitinfer predict ... | head`)

environment variables:
  BITINFER_ISA          instruction set to use; an error if it is not there (see `bitinfer doctor`)
  BITINFER_NUM_THREADS  threads, where --num-threads is not given
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    >>> main(["--version"])
    bitinfer ...
    0
    """
    try:
        code = _run(arguments)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _flush()
        return 141
    except (FormatError, ConversionError, UnsupportedError) as error:
        return _fail(error, CANNOT)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return _fail("this command needs PyTorch: install bitinfer[torch]", CANNOT)
    except (BitinferError, OSError) as error:
        return _fail(error, USAGE)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As texts are read; and a path may hold any bytes.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        options = _parse(arguments)
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a mistake
        return int(stop.code or 0)
    code: int = options.run(options)
    return code


def _fail(error: Exception | str, code: int) -> int:
    _flush()
    message = " ".join(str(error).split())
    print(f"bitinfer: error: {message}", file=sys.stderr)
    return code


def _flush() -> None:
    """Write what is left of the output, or forget it: Python would try again at exit."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# ---- commands


def _convert(options: argparse.Namespace) -> int:
    report = bitinfer.convert(
        options.source,
        options.destination,
        config=options.config,
        vocab=options.vocab,
        labels=options.labels,
        task=options.task,
        max_length=options.max_length,
        licence=options.licence,
        overwrite=options.overwrite,
        verify=options.verify,
    )
    print(report)
    return OK


def _predict(options: argparse.Namespace) -> int:
    model = bitinfer.load(options.model, num_threads=options.num_threads, isa=options.isa)
    write = _WRITERS[options.format]
    # Errors count the texts of a call from 0: all arguments are one call.
    size = len(options.text) or options.batch_size
    with ExitStack() as stack:
        texts = _texts(options, stack)
        while batch := list(islice(texts, size)):
            ranked = model.predict(
                batch,
                top_k=None if options.top_k == 0 else options.top_k,
                batch_size=options.batch_size,
                max_length=options.max_length,
                show_progress_bar=False,
            )
            for text, best in zip(batch, ranked, strict=True):
                for line in write(text, best):
                    print(line)
            print(end="", flush=True)  # the next batch may be long in coming
    return OK


def _texts(options: argparse.Namespace, stack: ExitStack) -> Iterator[Any]:
    """Texts or pairs from the arguments, a file, or standard input, one a line."""
    path = "-" if options.input is None else options.input
    if options.text and options.input is not None:
        raise InputError(f"--input: found {path!r} beside texts as arguments, expected one of them")
    lines: Iterator[str] = iter(options.text)
    if not options.text:
        lines = _lines(stack.enter_context(_open_input(path)))
    separator = options.pair_sep
    if separator == []:  # what argparse made of --pair-sep=-- before Python 3.12
        separator = "--"
    return lines if separator is None else (_split(line, separator) for line in lines)


def _open_input(path: str) -> AbstractContextManager[BinaryIO]:
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise InputError("standard input is closed: pass texts as arguments, or --input FILE")
    if sys.stdin.isatty():
        print("bitinfer: reading texts, one a line; Ctrl-D ends them", file=sys.stderr)
    return nullcontext(sys.stdin.buffer)


def _lines(file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"line {number}: not UTF-8: {error}") from None


def _split(line: str, separator: str) -> tuple[str, str | None]:
    text, found, pair = line.partition(separator)
    return text, pair if found else None


def _info(options: argparse.Namespace) -> int:
    from bitinfer.diagnostics import format_lines

    info = bitinfer.load(options.model, num_threads=options.num_threads, isa=options.isa).info()
    if options.json:
        print(json.dumps(info, indent=2))
        return OK
    sizes = info.pop("bytes")
    print("\n".join(format_lines(info)))
    print("bytes:")
    width = max(map(len, sizes))
    for part, size in sizes.items():
        print(f"  {part:<{width}}  {size:>12,}")
    return OK


def _verify(options: argparse.Namespace) -> int:
    from bitinfer.data.evaluation import evaluate
    from bitinfer.runtime.model import BitModel
    from bitinfer.runtime.origin import find_model, read_model

    data = _read_data(options)
    if not options.parity and (data is None or options.checkpoint is not None):
        found = "without --data" if data is None else "beside --checkpoint"
        raise InputError(f"--no-parity: found {found}, expected --data alone")
    origin = find_model(options.model)
    metadata, tensors = read_model(origin)
    # Loading checks every tensor, which what follows relies on.
    model = BitModel(origin, content=(metadata, tensors))
    if "sha256" in metadata:
        print(f"file: intact, SHA-256 {metadata['sha256']}")
    result = None if data is None else evaluate(model, data)
    passed = not options.parity or _compare(options, metadata, tensors)
    if result is not None:
        print(f"data: {result}")
        passed &= options.at_least is None or result.value >= options.at_least
    print("passed" if passed else "FAILED")
    return OK if passed else CHECK_FAILED


def _read_data(options: argparse.Namespace) -> LabelledTexts | None:
    from bitinfer.data.tables import read_table

    columns = {
        "text": options.text_column,
        "pair": options.pair_column,
        "label": options.label_column,
    }
    if options.data is not None:
        return read_table(options.data, **columns)
    for name, value in (*columns.items(), ("at-least", options.at_least)):
        if value is not None:
            option = name if name == "at-least" else f"{name}-column"
            raise InputError(f"--{option}: found {value!r} without --data, expected both")
    return None


def _compare(options: argparse.Namespace, metadata: dict[str, Any], tensors: Tensors) -> bool:
    """Print whether the engine computes what the model, or the checkpoint, means."""
    from bitinfer.conversion.convert import measure_parity
    from bitinfer.conversion.packing import from_tensors
    from bitinfer.families.bit import read_bit

    if options.checkpoint is None:
        description = from_tensors(tensors, metadata)
    else:
        description = read_bit(options.checkpoint, config=options.config, vocab=options.vocab)
        same = description.source_sha256 == metadata["source"]["sha256"]
        print(f"checkpoint: {'' if same else 'not '}the file this model was converted from")
        if asdict(description.config) != metadata["config"]:
            print("checkpoint: its sizes and kinds are not those of this model")
            return False
    parity = measure_parity(description, tensors)
    print(
        f"parity: {parity.codes_differing} of {parity.codes:,} codes differ from the float64 "
        f"reference, logits within {parity.logits_difference:.1e} "
        f"({parity.sequences} random sequences, {parity.tokens} tokens)"
    )
    return parity.exact


def _bench(options: argparse.Namespace) -> int:
    from bitinfer.cli import bench

    timings = bench.run(
        options.model,
        batches=options.batch,
        lengths=options.length,
        threads=options.threads or [None],
        isas=options.isa or [None],
        repetitions=options.repetitions,
        profile=options.profile,
    )
    write = {"md": bench.as_markdown, "json": bench.as_json, "csv": bench.as_csv}[options.output]
    for line in write(options.model, timings):
        print(line, flush=True)
    return OK


def _doctor(options: argparse.Namespace) -> int:
    from bitinfer.diagnostics import diagnose, format_lines, self_test

    report = {**diagnose(), "self_test": self_test()}
    print(json.dumps(report, indent=2) if options.json else "\n".join(format_lines(report)))
    broken = [value for value in report["self_test"].values() if value != "ok"]
    unusable = [key for key in ("isa", "num_threads") if str(report[key]).startswith("error")]
    return CANNOT if unusable else CHECK_FAILED if broken else OK


def _export_float(options: argparse.Namespace) -> int:
    from bitinfer.runtime.origin import find_model

    bitinfer.export_float(find_model(options.source).path, options.destination)
    return OK


# ---- output of predict


def _as_list(best: Any) -> list[Prediction]:
    return best if isinstance(best, list) else [best]


def _fields(text: Any) -> list[str]:
    """Text and second text as columns: white space that would break a line becomes spaces."""
    parts = text if isinstance(text, tuple) else (text,)
    return [" ".join((part or "").split()) for part in parts]


def _write_text(text: Any, best: Any) -> Iterator[str]:
    answers = "  ".join(
        f"{p.score:.4f}" if p.label is None else f"{p.label} {p.score:.4f}" for p in _as_list(best)
    )
    yield f"{answers}  {' | '.join(_fields(text))}"


def _write_tsv(text: Any, best: Any) -> Iterator[str]:
    for p in _as_list(best):
        yield "\t".join([p.label or "", repr(p.score), *_fields(text)])


def _write_jsonl(text: Any, best: Any) -> Iterator[str]:
    given = {"text": text}
    if isinstance(text, tuple):
        given = {"text": text[0], "text_pair": text[1]}
    found: dict[str, Any] = {}
    if isinstance(best, list):
        found["predictions"] = [p.asdict() for p in best]
    else:
        found = best.asdict()
    yield json.dumps({**found, **given}, ensure_ascii=False)


_WRITERS: dict[str, Callable[[Any, Any], Iterator[str]]] = {
    "text": _write_text,
    "tsv": _write_tsv,
    "jsonl": _write_jsonl,
}


# ---- parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes positional arguments from one place only: texts may also stand after options.
    end = rest.index("--") if "--" in rest else len(rest)
    wrong = [word for word in rest[:end] if word.startswith("-")]
    if wrong or (rest and options.run is not _predict):
        options.parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        options.text += rest[:end] + rest[end + 1 :]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bitinfer",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"bitinfer {bitinfer.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        *(_add_convert, add_distill, add_finetune, _add_predict, _add_info),
        *(_add_verify, _add_bench, _add_doctor, _add_export_float),
    ):
        add(commands)
    return parser


def _add_convert(commands: Any) -> None:
    parser = add_command(
        commands,
        "convert",
        _convert,
        "convert a BiT checkpoint to a packed file",
        "  bitinfer convert bit-sst2/ sst2.safetensors --labels negative,positive\n"
        "  bitinfer convert mnli.pt mnli.safetensors --config config.json --vocab vocab.txt "
        "--task mnli",
    )
    parser.add_argument("source", metavar="SRC", help="checkpoint folder, or .bin / .pt file")
    parser.add_argument("destination", metavar="DST", help="packed file to make")
    parser.add_argument("--task", help="GLUE task or squad: gives labels and length")
    parser.add_argument(
        "--labels", type=to_names, metavar="A,B", help="names of the classes in order"
    )
    _add_checkpoint_files(parser)
    parser.add_argument(
        "--max-length", type=to_positive, metavar="N", help="tokens a text is cut to"
    )
    parser.add_argument("--licence", help="licence of the checkpoint, recorded in the file")
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not compare the result with the float64 reference",
    )


def _add_predict(commands: Any) -> None:
    parser = add_command(
        commands,
        "predict",
        _predict,
        "classify texts: arguments, lines of a file, or lines of standard input",
        '  bitinfer predict sst2 "a warm and funny film" "a dull one"\n'
        "  bitinfer predict sst2 --input reviews.txt --format jsonl > labels.jsonl\n"
        "  bitinfer predict mnli.safetensors --pair-sep '|||' 'a man sleeps ||| a man runs'\n"
        "  cut -f2 table.tsv | bitinfer predict sst2 --format tsv --top-k 0\n\n"
        "Texts and output are UTF-8.",
    )
    _add_model(parser)
    parser.add_argument("text", metavar="TEXT", nargs="*", help="texts; default: lines of stdin")
    parser.add_argument("--input", metavar="FILE", help="read texts from lines; - is stdin")
    parser.add_argument(
        "--format",
        choices=sorted(_WRITERS),
        default="text",
        help="text (default): for reading; tsv: label, score, text; jsonl: one object a line",
    )
    parser.add_argument(
        "--pair-sep", metavar="SEP", type=to_separator, help="what separates the texts of a pair"
    )
    parser.add_argument(
        "--top-k",
        type=to_count,
        default=1,
        metavar="N",
        help="classes to show: default 1, 0 is all",
    )
    parser.add_argument(
        "--batch-size", type=to_positive, default=32, metavar="N", help="texts run together: 32"
    )
    parser.add_argument(
        "--max-length", type=to_positive, metavar="N", help="tokens a text is cut to: as the model"
    )


def _add_info(commands: Any) -> None:
    parser = add_command(
        commands,
        "info",
        _info,
        "show what a model is, what is in its file, and how large each part is",
        "  bitinfer info sst2\n  bitinfer info sst2.safetensors --json",
    )
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_verify(commands: Any) -> None:
    parser = add_command(
        commands,
        "verify",
        _verify,
        "compare a packed file with the float64 reference, code by code (needs PyTorch)",
        "  bitinfer verify sst2.safetensors --checkpoint bit-sst2/\n"
        "  bitinfer verify sst2 --data dev.tsv --at-least 0.8 --no-parity\n"
        "  bitinfer verify sst2 --data plain.tsv --text-column 2 --label-column 1\n"
        "  bitinfer verify sst2 --data reviews.jsonl --text-column review --no-parity\n\n"
        "data: a file .csv (commas, quotes as in RFC 4180), .jsonl (one object a line, whose keys\n"
        "are the columns), or any other (one row a line, tabs, no quoting), in UTF-8. The first\n"
        "row names the columns; by default sentence (or sentence1 and sentence2, premise and\n"
        "hypothesis, text, ...) and label are used. Columns given by number mean that there is no\n"
        "row of names. A label is the name of a class or its index.",
    )
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument("--checkpoint", metavar="PATH", help="compare with this checkpoint instead")
    _add_checkpoint_files(parser)
    parser.add_argument("--data", metavar="FILE", help="labelled texts: report the accuracy")
    parser.add_argument("--text-column", metavar="NAME|N", help="column of the text")
    parser.add_argument("--pair-column", metavar="NAME|N", help="column of the second text")
    parser.add_argument("--label-column", metavar="NAME|N", help="column of the label")
    parser.add_argument(
        "--at-least", type=to_number, metavar="X", help="fail if the result is lower"
    )
    parser.add_argument(
        "--no-parity",
        dest="parity",
        action="store_false",
        help="only look at the data; needs no PyTorch",
    )


def _add_bench(commands: Any) -> None:
    parser = add_command(
        commands,
        "bench",
        _bench,
        "measure the speed of a model: the product of all lists given",
        "  bitinfer bench sst2 -b 1,8,32 -l 32,128 -t 1,2\n"
        "  bitinfer bench base.safetensors -l 128 --isa avx2,portable -r 20 -o json",
    )
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    for short, name, default in (("-b", "--batch", [1, 8, 32]), ("-l", "--length", [32, 128])):
        shown = f"default {','.join(map(str, default))}"
        parser.add_argument(
            short, name, type=to_sizes, default=default, metavar="N,...", help=shown
        )
    parser.add_argument(
        "-t", "--threads", type=to_sizes, metavar="N,...", help="default: as predict would"
    )
    parser.add_argument(
        "--isa", type=to_names, metavar="NAME,...", help="default: the one predict would use"
    )
    parser.add_argument(
        "-r", "--repetitions", type=to_positive, default=10, metavar="N", help="default 10"
    )
    parser.add_argument(
        "-o", "--output", choices=["md", "json", "csv"], default="md", help="default md"
    )
    parser.add_argument(
        "--profile", action="store_true", help="also the share of time in each stage of the engine"
    )


def _add_doctor(commands: Any) -> None:
    parser = add_command(
        commands,
        "doctor",
        _doctor,
        "show what a bug report needs, and check that every instruction set gives the same answer",
        "  bitinfer doctor",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_export_float(commands: Any) -> None:
    parser = add_command(
        commands,
        "export-float",
        _export_float,
        "write a packed model as a float checkpoint folder of the same meaning (needs PyTorch)",
        "  bitinfer export-float sst2.safetensors sst2-float/",
    )
    parser.add_argument("source", metavar="SRC", help="packed file or built-in name")
    parser.add_argument("destination", metavar="DST", help="folder to make")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    parser.add_argument("--num-threads", type=to_positive, metavar="N", help="threads to use")
    parser.add_argument("--isa", metavar="NAME", help="instruction set to use: see doctor")


def _add_checkpoint_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="config.json, if the checkpoint has none")
    parser.add_argument("--vocab", metavar="FILE", help="vocab.txt, if the checkpoint has none")
