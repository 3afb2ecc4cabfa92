"""Builds `bitinfer._core` by driving CMake; the rest is in pyproject.toml and CMakeLists.txt.

More options for CMake go in the environment variable CMAKE_ARGS, e.g. -DBITINFER_WERROR=ON.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def find_tool(name: str) -> str:
    """`name` from PATH or, for a virtual environment that is not activated, beside its Python."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    tool = shutil.which(name, path=path)
    if tool is None:
        raise RuntimeError(f"{name} not found: install the build requirements of pyproject.toml")
    return tool


def check_headers() -> None:
    """Fails with advice where CMake would say `missing: Python_INCLUDE_DIRS`."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise RuntimeError(
            f"{header} not found: install the headers of this Python "
            "(Debian and Ubuntu: apt-get install python3-dev)"
        )


class BuildWithCMake(build_ext):
    """Configures and builds the one target that the wheel needs."""

    def build_extension(self, ext: Extension) -> None:
        check_headers()
        source = Path(__file__).resolve().parent
        module = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = source / "build" / f"cmake-{sys.implementation.cache_tag}"
        cmake = find_tool("cmake")
        # The folder is kept, so that a rebuild is incremental. Every path and option is given each
        # time: it would otherwise remember those of an isolated environment that is gone.
        configure = [
            *(cmake, "-S", str(source), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DBITINFER_MODULE_DIR={module.parent}",
            "-DBITINFER_TESTS=OFF",
            "-DBITINFER_WERROR=OFF",
            "-DBITINFER_SANITIZE=",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build), "--target", "_core"], check=True)


setup(ext_modules=[Extension("bitinfer._core", [])], cmdclass={"build_ext": BuildWithCMake})
