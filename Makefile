# Needs g++, make and python3 with its headers and venv (Debian and Ubuntu: python3-dev, python3-venv).
# Everything else comes from PyPI into .venv (development), .venv-demo (as a user would install it)
# and .venv-compare (other engines).
#
#   make demo         install into a clean environment, without torch, and classify some sentences
#   make test         all Python tests          make native-test   C++ tests
#   make lint         format, lints and types   make sanitize      ASan, UBSan and TSan
#   make neon         C++ tests and whole models for 64-bit Arm, under qemu
#                     (needs g++-aarch64-linux-gnu and qemu-user)
#   make old-cpus     the same for x86-64 processors without AVX2 and without AVX-512
#   make bench        benchmarks                make clean         removes all that make has made
#   make compare      bitinfer beside other engines, tables and plots of it (1.5 GB of packages)
#
# Variables:
#   PYTHON=python3.12   the Python to use
#   TORCH_INDEX=URL     one more package index to take torch from, such as PyTorch's own CPU index,
#                       whose wheels are much smaller than the default ones
#   CXX=clang++         the C++ compiler (of a clean tree: a build folder keeps its own)
#   CMAKE_ARGS=...      more options for CMake, e.g. -DBITINFER_WERROR=ON
PYTHON ?= python3
TORCH_INDEX ?=
TORCH := torch==2.13.0

VENV := .venv
DEMO := .venv-demo
COMPARE := .venv-compare
BIN := $(VENV)/bin
# What [build-system] in pyproject.toml asks for: kept in .venv, so that a rebuild is incremental.
BUILD_TOOLS := "setuptools>=77" "cmake>=3.20" ninja "pybind11>=2.13"

NATIVE := build/native
CONFIGURE = $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
  -DBITINFER_PYTHON=OFF $(CMAKE_ARGS)
PYTHON_MODULE = -DBITINFER_PYTHON=ON -DPython_EXECUTABLE=$(abspath $(BIN))/python \
  -Dpybind11_DIR=$$($(BIN)/pybind11-config --cmakedir)
# Python itself is not instrumented: it preloads the runtime and leaks at exit by design.
PYTHON_WITH_ASAN = PYTHONPATH=$(abspath build/asan) ASAN_OPTIONS=detect_leaks=0 \
  LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)"
NATIVE_CALLERS := $(addprefix tests/test_,$(addsuffix .py,\
  ops_api model_api threads_fork invariance parity_seeded))
SOURCES = $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'tests/native/*.h' 'tests/native/*.cpp')

# $(call replay,COMMAND,ISA): the seeded models, run by a program built for other circumstances, which
# says what kernels it ran.
replay = BITINFER_REPLAY="$(1)" BITINFER_REPLAY_ISA=$(2) \
  $(BIN)/pytest tests/test_parity_seeded.py -k replayed
BEST_ISA = $(shell $(BIN)/python -c "import bitinfer; print(bitinfer.available_isas()[0])")

export CXX CMAKE_ARGS

.PHONY: demo test lint native-test sanitize neon old-cpus bench compare install clean

demo:
	$(PYTHON) -m venv --clear $(DEMO)
	$(DEMO)/bin/pip install --quiet .
	$(DEMO)/bin/python examples/demo.py

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)

native-test: $(VENV)/ready
	$(CONFIGURE) -B $(NATIVE)
	$(BIN)/cmake --build $(NATIVE)
	$(NATIVE)/bitinfer_native_tests

# Threads in a forked child are beyond the thread sanitizer and qemu-user: the tests named fork_* are
# left out there.
sanitize: install
	rm -rf build/asan/bitinfer && mkdir -p build/asan && cp -r bitinfer build/asan
	rm -f build/asan/bitinfer/*.so
	$(CONFIGURE) -B build/asan -DBITINFER_SANITIZE=address,undefined $(PYTHON_MODULE) \
	  -DBITINFER_MODULE_DIR=$(abspath build/asan/bitinfer)
	$(BIN)/cmake --build build/asan
	build/asan/bitinfer_native_tests
	$(PYTHON_WITH_ASAN) $(BIN)/pytest $(NATIVE_CALLERS)
	$(CONFIGURE) -B build/tsan -DBITINFER_SANITIZE=thread
	$(BIN)/cmake --build build/tsan
	build/tsan/bitinfer_native_tests -fork
	$(call replay,build/tsan/bitinfer_replay,$(BEST_ISA))

neon: install
	$(CONFIGURE) -B build/neon --toolchain cmake/aarch64-linux-gnu.cmake
	$(BIN)/cmake --build build/neon
	qemu-aarch64 build/neon/bitinfer_native_tests -fork
	$(call replay,qemu-aarch64 build/neon/bitinfer_replay,neon)

# The choice of kernels, and no instruction that such a processor lacks.
old-cpus: install native-test
	qemu-x86_64 -cpu Nehalem $(NATIVE)/bitinfer_native_tests -fork
	$(call replay,qemu-x86_64 -cpu Nehalem $(NATIVE)/bitinfer_replay,portable)
	qemu-x86_64 -cpu max $(NATIVE)/bitinfer_native_tests -fork
	$(call replay,qemu-x86_64 -cpu max $(NATIVE)/bitinfer_replay,avx2)

bench: install
	$(BIN)/pytest benchmarks

# On a quiet machine; COMPARE_OPTIONS=--quick shows in a few minutes that all of it runs.
compare: $(COMPARE)/ready
	$(COMPARE)/bin/pip install --quiet --no-build-isolation -e .
	$(COMPARE)/bin/python -m benchmarks.compare $(COMPARE_OPTIONS)
	$(COMPARE)/bin/python benchmarks/table.py --rewrite
	$(COMPARE)/bin/python -m benchmarks.compare.plots

# PyTorch first: the others would take any, of which the default brings CUDA along.
$(COMPARE)/ready: benchmarks/compare/requirements.txt
	$(PYTHON) -m venv $(COMPARE)
	$(COMPARE)/bin/pip install --quiet --upgrade pip $(BUILD_TOOLS)
	$(COMPARE)/bin/pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(COMPARE)/bin/pip install --quiet -r $<
	touch $@

install: $(VENV)/ready
	$(BIN)/pip install --quiet --no-build-isolation -e '.[dev,train]'

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip $(BUILD_TOOLS)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	touch $@

clean:
	rm -rf build dist *.egg-info bitinfer/*.so $(VENV) $(DEMO) $(COMPARE)
