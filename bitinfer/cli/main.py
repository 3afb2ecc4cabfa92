"""The command line: ``bitinfer COMMAND`` or ``python -m bitinfer COMMAND``."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence

import bitinfer
from bitinfer.cli.arguments import CANNOT, Command, add_command, read_command
from bitinfer.cli.models import Bench, Convert, Doctor, ExportFloat, Info, Verify
from bitinfer.cli.predict import Predict
from bitinfer.cli.train import Distill, Finetune
from bitinfer.errors import BitinferError, ConversionError, FormatError, UnsupportedError

_USAGE = 2
_COMMANDS: dict[str, type[Command]] = {
    "convert": Convert,
    "distill": Distill,
    "finetune": Finetune,
    "predict": Predict,
    "info": Info,
    "verify": Verify,
    "bench": Bench,
    "doctor": Doctor,
    "export-float": ExportFloat,
}

_DESCRIPTION = """\
Run fully binarized (1-bit) BERT models on the CPU.

  bitinfer convert bit-sst2/ sst2.safetensors --labels negative,positive
  bitinfer predict sst2.safetensors "a warm and funny film"
  bitinfer info sst2.safetensors
  bitinfer distill bert-sst2/ --train train.tsv --dev dev.tsv -o sst2-1bit/

MODEL is a packed file or the folder that `bitinfer distill` put one in, a checkpoint folder or file
(needs PyTorch), or the name of a built-in model.
"""
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As texts are read; and a path may hold any bytes.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        try:
            command = read_command(_parse(arguments))
        except SystemExit as stop:  # argparse: 0 after --help, 2 after a mistake
            code = int(stop.code or 0)
        else:
            code = command.run()
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
        return _fail(error, _USAGE)
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


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bitinfer",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"bitinfer {bitinfer.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        add_command(commands, name, command)
    options, rest = parser.parse_known_args(arguments)
    # argparse takes positional arguments from one place only: texts may also stand after options.
    end = rest.index("--") if "--" in rest else len(rest)
    wrong = [word for word in rest[:end] if word.startswith("-")]
    if wrong or (rest and not hasattr(options, "pair_sep")):
        options.parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        options.text += rest[:end] + rest[end + 1 :]
    return options
