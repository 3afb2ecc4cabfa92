"""Writes a packed model back as a float checkpoint in the published form of its family."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bitinfer.conversion.packing import from_tensors
from bitinfer.errors import UnsupportedError
from bitinfer.families import families
from bitinfer.files import new_folder
from bitinfer.runtime.format import read_packed


def export_float(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Writes ``pytorch_model.bin``, ``config.json`` and ``vocab.txt`` of a packed model.

    The checkpoint means the same network: converting it again gives the same tensors, bit for bit.
    Its weights are not those that were trained, which a packed file does not hold.  The published
    code takes the mean in float32 and so can miss exact zeros, as with any checkpoint.

    Args:
        src: packed file.
        dst: folder to make; appears only when it is complete.

    Raises:
        FormatError: ``src`` is not a valid packed file.
        ConversionError: a matrix cannot be written as float32 weights that lead back to it: it
            holds a row whose codes are all of one sign, or too few of a sign.
        FileExistsError: ``dst`` exists.
        UnsupportedError: PyTorch is not installed, or models of the family are not written back.

    Example:
        >>> export_float("sst2.safetensors", "sst2-float")
    """
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError("export_float needs PyTorch: install bitinfer[torch]") from error
    target = Path(dst)
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists; expected a new folder")
    metadata, tensors = read_packed(src)
    description = from_tensors(tensors, metadata)
    family = families().get(description.family)
    if family is None or family.write is None:
        raise UnsupportedError(
            f"export_float: found family {description.family!r}, not written back"
        )
    values, settings = family.write(description)
    state = {key: torch.tensor(value) for key, value in values.items()}
    tokenizer = {
        "do_lower_case": description.lowercase,
        "model_max_length": metadata["tokenizer"]["max_length"],
    }
    with new_folder(target) as folder:
        torch.save(state, folder / "pytorch_model.bin")
        for name, value in (("config.json", settings), ("tokenizer_config.json", tokenizer)):
            text = json.dumps(value, indent=2, sort_keys=True) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
        tokens = "".join(f"{each}\n" for each in description.vocab)
        (folder / "vocab.txt").write_bytes(tokens.encode())
