"""What a training needs to go on after a kill: one file in a folder of its own, and a log."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitinfer.errors import InputError, quote, shorten
from bitinfer.families.checkpoint import unpickle
from bitinfer.files import UNFINISHED, write_file
from bitinfer.train.report import Point, StageResult, from_plain, to_plain

_STATE, _LOG = "state.pt", "log.jsonl"
_FORMAT = 5  # of the state: one of another format cannot be gone on with


class Run:
    """The state of a training on the disk, in a folder that `check_folder` allows.

    One that is damaged, or of other settings than those given, is an InputError.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings, self._path = folder, settings, folder / _STATE
        self.results: list[StageResult] = []  # of the stages that came to their end
        self.weights: dict[str, Tensor] = {}  # of the last of them
        self.middle: dict[str, Any] | None = None  # of the stage after it, as given to `keep`
        self.earlier = 0.0  # seconds of work that need not be done again
        folder.mkdir(exist_ok=True)
        if self._path.exists():
            with self.reading():
                self._read()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A block in which an error is that of a damaged state."""
        try:
            yield
        except (InputError, OSError):
            raise
        except Exception as error:  # what is damaged can raise anything
            found = f"damaged ({shorten(str(error))})"
            raise InputError(f"{self._path}: {found}, expected the state of a training") from error

    def keep(self, middle: dict[str, Any] | None) -> None:
        """Save where a stage is in place of what was saved before; a kill leaves one of both."""
        content = {
            "format": _FORMAT,
            "settings": self.settings,
            "results": to_plain(self.results),
            "weights": self.weights,
            "middle": middle,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_file(self._path, buffer.getbuffer(), overwrite=True)

    def finish(self, weights: dict[str, Tensor], result: StageResult) -> None:
        """Save a stage that came to its end."""
        self.results.append(result)
        self.weights, self.middle = weights, None
        self.keep(None)

    def log(self, stage: str, point: Point) -> None:
        """Add a measurement to the log, for who looks on."""
        with open(self.folder / _LOG, "a", encoding="utf-8") as file:
            file.write(_log_line(stage, point))

    def remove(self) -> None:
        """Delete what is no longer needed to go on; files of other names stay."""
        for path in _own_files(self.folder):
            path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _read(self) -> None:
        # PyTorch itself does not look at the checksums.
        with zipfile.ZipFile(self._path) as archive:
            if (wrong := archive.testzip()) is not None:
                raise ValueError(f"wrong checksum of {wrong}")
        saved: Any = unpickle(self._path)
        if saved["format"] != _FORMAT:
            found = f"{self._path}: found a training of another version of bitinfer"
            raise InputError(f"{found}, expected one of this (go on with that one, or delete it)")
        check_same(self._path, saved["settings"], self.settings)
        self.results = [from_plain(StageResult, each, "results") for each in saved["results"]]
        self.weights, self.middle = saved["weights"], saved["middle"]
        self.earlier = sum(result.seconds for result in self.results)
        self.earlier += float(self.middle["seconds"]) if self.middle is not None else 0.0


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raises an InputError if a run may not begin in a folder, nor go on with what it holds."""
    begun = _own_files(folder)
    if begun and not resume:
        raise InputError(
            f"{folder}: found an unfinished training, expected none (resume it, or delete it)"
        )
    if not begun and (found := sorted(folder.iterdir())):
        name = quote(found[0].name)
        raise InputError(f"{folder}: found {name}, expected an unfinished training or nothing")


def check_same(place: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises an InputError that names the settings in which a training differs."""
    names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if names:
        told = (f"{name} {quote(found.get(name))}, now {quote(wanted.get(name))}" for name in names)
        raise InputError(
            f"{place}: found a training with other options or data ({'; '.join(told)}), expected "
            "the same"
        )


def write_log(folder: Path, stages: Iterable[StageResult]) -> None:
    """Write all that was measured, a line of JSON for each point.

    Not a copy of what a run logged, in which a kill may leave half a line, or a line twice.
    """
    lines = [_log_line(stage.bits, point) for stage in stages for point in stage.points]
    (folder / _LOG).write_text("".join(lines), encoding="utf-8")


def _log_line(stage: str, point: Point) -> str:
    return f"{json.dumps({'stage': stage, **to_plain(point)})}\n"


def _own_files(folder: Path) -> list[Path]:
    found = [path for name in (_STATE, _LOG, UNFINISHED) for path in folder.glob(name)]
    return [path for path in found if not path.is_dir()]
