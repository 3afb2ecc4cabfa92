"""The structure of the sources: who may use whom, and what may appear where."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = sorted([*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cpp")])
ISA_FILES = sorted(ROOT.glob("csrc/cpu/kernels/isa/*.cpp"))
PYTHON = sorted(ROOT.glob("bitinfer/**/*.py"))

# A layer may use itself and those before it.
LAYERS = ["base", "model", "cpu", "python"]
# The same for the rooms and modules of the package, which stand beside each other in a line.
ROOMS = [
    *({"_core", "errors"}, {"bits", "codes", "config", "checks", "files", "results"}),
    *({"fields"}, {"heads"}),
    *({"description"}, {"families", "reference"}, {"runtime"}, {"conversion", "ops"}),
    *({"data", "diagnostics"}, {"train"}, {"cli"}, {"__main__"}),
]
# To load a checkpoint is to convert it in memory.
BACKWARDS = {("runtime/origin.py", "conversion")}
# An ISA file that instantiated an inline function of one of these could replace the copy that all
# other code uses by one with its own instructions.
CONTAINERS = {"algorithm", "array", "deque", "functional", "iostream", "map", "memory", "optional"}
CONTAINERS |= {"set", "sstream", "string", "unordered_map", "utility", "variant", "vector"}
# The only modules that import torch or transformers.  The first wait until a function needs them;
# the second nobody imports who does not.
TORCH_IN_FUNCTIONS = {"families/checkpoint.py", "conversion/export.py", "train/data.py"}
TORCH_IN_FUNCTIONS |= {f"heads/{module}.py" for module in ("classify", "regress", "registry")}
TORCH_AT_IMPORT = {"reference.py"} | {
    f"train/{module}.py"
    for module in (
        *("distillation", "finetuning", "loop"),
        *("quantizers", "run", "session", "student", "teacher"),
    )
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def reachable(path: Path) -> set[str]:
    """Everything that `path` includes, directly or through the project's own headers."""
    found: set[str] = set()
    pending = includes(path)
    while pending:
        header = pending.pop()
        if header not in found:
            found.add(header)
            if (ROOT / "csrc" / header).exists():
                pending += includes(ROOT / "csrc" / header)
    return found


def tracked_files() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


@pytest.mark.parametrize("path", NATIVE, ids=name)
def test_native_layers(path: Path) -> None:
    layer = path.relative_to(ROOT / "csrc").parts[0]
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for header in includes(path):
        if "/" in header and (ROOT / "csrc" / header).exists():
            assert header.split("/")[0] in allowed, f"{name(path)} includes {header}"
        else:
            assert header.startswith("pybind11/") <= (layer == "python"), name(path)
            assert not header.startswith("."), f"{name(path)}: name {header} from csrc"


@pytest.mark.parametrize("path", ISA_FILES, ids=name)
def test_isa_files_see_kernels_only(path: Path) -> None:
    own = {header for header in reachable(path) if (ROOT / "csrc" / header).exists()}
    own -= {"base/planes.h", "base/math.h"}  # a number, and functions that are compiled elsewhere
    assert {header.rpartition("/")[0] for header in own} <= {"cpu/kernels", "cpu/kernels/isa"}
    assert not reachable(path) & CONTAINERS


def test_each_isa_has_its_rows() -> None:
    cmake = (ROOT / "cmake/isa.cmake").read_text()
    registry = (ROOT / "csrc/cpu/kernels/registry.cpp").read_text()
    for path in ISA_FILES:
        assert f"bitinfer_isa(${{target}} {path.stem}" in cmake
        assert f'{{"{path.stem}", {path.stem}_kernels' in registry


def test_only_the_registry_names_instruction_sets() -> None:
    names = re.compile(r"\b(avx2|avx512_vpopcnt|neon)_kernels\b")
    users = {path for path in NATIVE if names.search(path.read_text())}
    others = {name(path) for path in users if path.parent.name != "isa"}
    assert others == {"csrc/cpu/kernels/registry.cpp"}


def test_every_source_is_built() -> None:
    listed = set(re.findall(r"(?:csrc|tests)/[\w/]+\.cpp", (ROOT / "CMakeLists.txt").read_text()))
    listed |= {name(path) for path in ISA_FILES}
    present = {*ROOT.glob("csrc/**/*.cpp"), *ROOT.glob("tests/native/*.cpp")}
    assert listed == {name(path) for path in present}


def test_compiler_flags() -> None:
    files = [ROOT / "CMakeLists.txt", ROOT / "setup.py", *ROOT.glob("cmake/*.cmake")]
    for path in files:
        commands = re.sub(r"#.*", "", path.read_text())
        assert not re.search(r"march|mtune|fast-math|Ofast|openmp|OpenMP", commands), name(path)
        if path.name != "isa.cmake":
            assert not re.search(r"\s-m[a-z]", commands), name(path)


def test_environment_is_read_in_one_place() -> None:
    readers = {name(path) for path in NATIVE if re.search(r"\bgetenv\(", path.read_text())}
    assert readers == {"csrc/base/env.cpp"}


def test_only_project_functions_compute_results() -> None:
    """The platform's libm differs from system to system; <cmath> is for exact functions only."""
    inexact = re.compile(r"\bstd::(exp|tanh|erf|log|pow|sin|cos)\w*\(")
    for path in NATIVE:
        assert not inexact.search(path.read_text()), name(path)


def rooms_of(node: ast.AST) -> set[str]:
    """The rooms of the package that an import names; none for the package itself."""
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return set()
    found = {tuple(each.split("."))[1:2] for each in names if each.startswith("bitinfer.")}
    return {room for rooms in found for room in rooms}


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_python_layers(path: Path) -> None:
    module = path.relative_to(ROOT / "bitinfer").as_posix()
    room = module.partition("/")[0].removesuffix(".py")
    if room == "__init__":  # where the public names are, which are imported on first use
        return
    [level] = [index for index, rooms in enumerate(ROOMS) if room in rooms]
    allowed = {room}.union(*ROOMS[:level])
    for node in ast.walk(ast.parse(path.read_text())):
        for other in rooms_of(node) - allowed:
            assert (module, other) in BACKWARDS, f"{module} imports {other}"


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_torch_stays_in_its_modules(path: Path) -> None:
    module = path.relative_to(ROOT / "bitinfer").as_posix()
    tree = ast.parse(path.read_text())

    def imports_torch(node: ast.AST) -> bool:
        if isinstance(node, ast.ImportFrom):
            roots = [(node.module or "").split(".")[0]]
        elif isinstance(node, ast.Import):
            roots = [alias.name.split(".")[0] for alias in node.names]
        else:
            return False
        return bool({"torch", "transformers"} & set(roots))

    anywhere = any(imports_torch(node) for node in ast.walk(tree))
    at_import = any(imports_torch(node) for node in tree.body)
    assert anywhere == (module in TORCH_IN_FUNCTIONS | TORCH_AT_IMPORT)
    assert at_import == (module in TORCH_AT_IMPORT)


def test_no_path_of_one_machine() -> None:
    pattern = re.compile(rb"(?<![\w.~-])/(?:work|root|home|Users)/\w")
    for path in tracked_files():
        found = pattern.search(path.read_bytes())
        assert found is None, f"{name(path)}: {found and found.group()!r}"


def test_no_build_products_are_tracked() -> None:
    products = {".so", ".o", ".a", ".pyc", ".whl"}
    assert [name(path) for path in tracked_files() if path.suffix in products] == []
