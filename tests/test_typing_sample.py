"""The types that users see, and the stub of the native module."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitinfer import _core

ROOT = Path(__file__).resolve().parent.parent

# pybind11 classes have a metaclass of their own, which concerns nobody.
ALLOWED = "bitinfer._core.Model\nbitinfer._core.RightOperand\n"
# What the stub imports is skipped: reading the types of NumPy takes longer than all the rest.
SKIP_IMPORTS = "[mypy]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n"


def run(folder: Path, *arguments: str) -> None:
    pytest.importorskip("mypy")
    environment = {
        **os.environ,
        "MYPYPATH": str(ROOT),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_of_user_code() -> None:
    # With the settings of the project, and so with the cache that `mypy` alone has filled.
    run(ROOT, "mypy", "tests/typing_sample.py")


def test_stub_has_the_names_of_the_module(tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(ALLOWED)
    (tmp_path / "mypy.ini").write_text(SKIP_IMPORTS)
    options = ["--allowlist", "allowed", "--mypy-config-file", "mypy.ini"]
    run(tmp_path, "mypy.stubtest", "bitinfer._core", *options)


def functions(body: list[ast.stmt], owner: object) -> Iterator[tuple[ast.FunctionDef, object]]:
    """Every function of the stub but properties, beside what the module has under its name."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from functions(node.body, getattr(owner, node.name))
        elif isinstance(node, ast.FunctionDef) and not node.decorator_list:
            yield node, getattr(owner, node.name)


def parameters(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    """Names in order, and whether they may be left out."""
    names = [each.arg for each in function.args.args]
    required = len(names) - len(function.args.defaults)
    return [(name, index >= required) for index, name in enumerate(names)]


def test_stub_has_the_parameters_of_the_module() -> None:
    """stubtest does not see the parameters of a pybind11 function; its documentation has them."""
    stub = ast.parse((ROOT / "bitinfer" / "_core.pyi").read_text())
    checked = 0
    for declared, function in functions(stub.body, _core):
        signature = (function.__doc__ or "").splitlines()[0]
        (actual,) = ast.parse(f"def {signature}: ...").body
        assert isinstance(actual, ast.FunctionDef)
        assert parameters(declared) == parameters(actual), declared.name
        checked += 1
    assert checked > 15
