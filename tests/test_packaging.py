"""What is installed: version, metadata, the native module."""

from __future__ import annotations

import importlib.metadata
import platform
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from children import environment

import bitinfer
import bitinfer._core as core

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(bitinfer.__file__).parent


def program_headers(library: bytes) -> list[tuple[int, int]]:
    """Type and flags of each program header of a 64-bit little-endian ELF file."""
    assert library[:6] == b"\x7fELF\x02\x01"
    (offset,) = struct.unpack_from("<Q", library, 32)
    size, count = struct.unpack_from("<HH", library, 54)
    return [struct.unpack_from("<II", library, offset + size * i) for i in range(count)]


def test_one_version() -> None:
    version = (ROOT / "VERSION").read_text().strip()
    assert bitinfer.__version__ == version
    assert core.build_info()["version"] == version
    assert importlib.metadata.version("bitinfer") == version


def test_metadata() -> None:
    metadata = importlib.metadata.metadata("bitinfer")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra" not in line]
    names = {line.replace(">", " ").split()[0] for line in required}
    assert names == {"numpy", "safetensors", "tokenizers", "tqdm"}


def test_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_package_data() -> None:
    for file in ("py.typed", "_core.pyi"):
        assert (PACKAGE / file).is_file()
    models = {path.stem for path in (PACKAGE / "builtin").glob("*.safetensors")}
    cards = {path.stem for path in (PACKAGE / "builtin").glob("*.md")}
    assert models == cards != set()


def test_wheel_is_small() -> None:
    """Its files, compressed as a wheel compresses them; ``.ci/run`` looks at a real one."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 10_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_no_executable_stack() -> None:
    gnu_stack, executable = 0x6474E551, 1
    headers = program_headers(Path(core.__file__).read_bytes())
    flags = [flag for kind, flag in headers if kind == gnu_stack]
    assert len(flags) == 1
    assert not flags[0] & executable


def test_available_isas() -> None:
    isas = bitinfer.available_isas()
    assert isas[-1] == "portable"
    assert len(set(isas)) == len(isas)
    features = core.cpu_features()
    if platform.machine() == "x86_64":
        assert "neon" not in isas
        assert ("avx2" in isas) == all(features[name] for name in ("avx2", "fma", "popcnt"))
        flags = Path("/proc/cpuinfo").read_text().split()  # the operating system's own view
        needed = {"avx512_vpopcntdq", "avx512_vnni", "avx512vbmi"}
        assert ("avx512_vpopcnt" in isas) == (needed <= set(flags))
    if platform.machine() == "aarch64":
        assert isas == ["neon", "portable"]


def test_import_leaves_torch_alone() -> None:
    code = (
        "import sys, bitinfer\n"
        "bitinfer.load('sst2').predict('fine')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
