"""A `Description` as the tensors and metadata of a packed file, and back.

Signs become bits: bit ``k % 64`` of word ``k // 64`` of a row is 1 where code k is +1; a row is
padded with zero bits to whole words.  Rows with codes that are exactly 0 are listed beside them,
with a second plane of bits, 1 where the code is not 0.  Formulas that only decide a code are
replaced by integer boundaries.  Nothing is rounded: `from_tensors` returns what went in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import bitinfer
from bitinfer.bits import pack_bits, unpack_bits
from bitinfer.checks import check_int
from bitinfer.codes import POINTS, PointCodes
from bitinfer.config import MIN_LENGTH, Config
from bitinfer.conversion.boundaries import layer_boundaries
from bitinfer.description import I8, Description, array_shapes, matrix_shapes
from bitinfer.families.bert import find_task
from bitinfer.runtime.format import FORMAT_VERSION, Tensors


def to_tensors(description: Description) -> Tensors:
    """Every tensor of the packed file, by name."""
    tensors: Tensors = dict(description.arrays)
    for name in matrix_shapes(description.config):
        tensors |= _packed_codes(name, tensors.pop(f"{name}.codes"))
    for index in range(description.config.layers):
        for point, (rises, falls) in layer_boundaries(description, index).items():
            tensors[f"layer.{index}.{point}.rises"] = rises
            if falls is not None:
                tensors[f"layer.{index}.{point}.falls"] = falls
    return tensors


def to_metadata(
    description: Description,
    *,
    max_length: int | None = None,
    licence: str | None = None,
    report: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metadata; by default texts are cut as the task was trained, else to all positions."""
    positions = description.config.positions
    task = find_task(description.task)
    if max_length is None:
        max_length = min(positions, task.max_length if task else positions)
    max_length = check_int("max_length", max_length, MIN_LENGTH, positions)
    return {
        "format_version": FORMAT_VERSION,
        "writer": f"bitinfer {bitinfer.__version__}",
        "architecture": "bert",
        "family": description.family,
        "config": description.config._asdict(),
        "codes": {point: description.codes[point].name for point in POINTS},
        "labels": list(description.label_names),
        "task": description.task,
        "vocab": "\n".join(description.vocab),
        "tokenizer": {"lowercase": description.lowercase, "max_length": max_length},
        "source": {"file": description.source_file, "sha256": description.source_sha256},
        "licence": licence,
        "report": dict(report or {}),
    }


def from_tensors(
    tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, Any]
) -> Description:
    """The description, without its notes, of a valid packed file as `read_packed` returns it."""
    config = Config(**metadata["config"])
    arrays = {name: tensors[name] for name in array_shapes(config)}
    for name, (_, columns) in matrix_shapes(config).items():
        arrays[f"{name}.codes"] = _unpacked_codes(tensors, name, columns)
        arrays[f"{name}.scale"] = tensors[f"{name}.scale"]
    return Description(
        family=metadata["family"],
        config=config,
        codes={point: PointCodes.parse(name) for point, name in metadata["codes"].items()},
        arrays=arrays,
        label_names=tuple(metadata["labels"]),
        task=metadata["task"],
        vocab=tuple(metadata["vocab"].split("\n")),
        lowercase=metadata["tokenizer"]["lowercase"],
        source_file=metadata["source"]["file"],
        source_sha256=metadata["source"]["sha256"],
    )


def _packed_codes(name: str, codes: I8) -> Tensors:
    tensors: Tensors = {f"{name}.bits": pack_bits(codes > 0)}
    rows = np.flatnonzero((codes == 0).any(1))
    if len(rows):
        tensors[f"{name}.zero_rows"] = rows.astype(np.int32)
        tensors[f"{name}.nonzero"] = pack_bits(codes[rows] != 0)
    return tensors


def _unpacked_codes(tensors: Mapping[str, npt.NDArray[Any]], name: str, columns: int) -> I8:
    positive = unpack_bits(tensors[f"{name}.bits"], columns)
    codes: I8 = np.where(positive, np.int8(1), np.int8(-1))
    if f"{name}.zero_rows" in tensors:
        rows = tensors[f"{name}.zero_rows"]
        codes[rows] *= unpack_bits(tensors[f"{name}.nonzero"], columns)
    return codes
