"""Who is compared: names, titles, and where the class of each is.

Nothing is imported here but the one class that a worker asks for, so that the start and the memory
of an engine are its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Check:
    """How far an answer is from what it should be.

    Attributes:
        reference: what it was compared with.
        difference: of the norms, relative, unless the reference is exact: then the largest.
        tolerance: what is let pass.
    """

    reference: str
    difference: float
    tolerance: float


class Contestant(ABC):
    """What a worker runs."""

    def __init__(self, kind: str, threads: int) -> None:
        """Cheap: nothing is loaded before :meth:`prepare`."""
        self.kind = kind
        self.threads = threads

    @abstractmethod
    def prepare(self, cell: dict[str, Any]) -> str:
        """Make ready for a cell; says which variant will run, or nothing if there is but one."""

    @abstractmethod
    def call(self) -> Any:
        """What is timed."""

    @abstractmethod
    def check(self) -> Check:
        """Compare a known answer; prepares another cell."""

    def file_bytes(self) -> int:
        """Size of the model on disk."""
        return 0


@dataclass(frozen=True)
class Entry:
    """A row: ``module:Class``, the kind it is made with, and the packages whose versions count."""

    title: str
    place: str
    kind: str = ""
    packages: tuple[str, ...] = ()

    def make(self, threads: int) -> Contestant:
        module, _, name = self.place.partition(":")
        contestant: Contestant = getattr(import_module(f"{__package__}.{module}"), name)(
            self.kind, threads
        )
        return contestant


_OPENVINO = ("openvino", "nncf")
_TORCH = ("torch", "transformers")

ENGINES = {
    "bitinfer": Entry("**bitinfer**", "engines.bitinfer:Bitinfer", packages=("bitinfer",)),
    "openvino-int8": Entry("OpenVINO int8", "engines.openvino:OpenVino", "int8", _OPENVINO),
    "openvino-bf16": Entry("OpenVINO bf16", "engines.openvino:OpenVino", "bf16", _OPENVINO),
    "onnxruntime-int8": Entry(
        "ONNX Runtime int8", "engines.onnxruntime:OnnxRuntime", "int8", ("onnxruntime",)
    ),
    "onnxruntime-fp32": Entry(
        "ONNX Runtime float32", "engines.onnxruntime:OnnxRuntime", "fp32", ("onnxruntime",)
    ),
    "ctranslate2-int8": Entry(
        "CTranslate2 int8", "engines.ctranslate2:CTranslate2", "int8", ("ctranslate2",)
    ),
    "torch-bf16": Entry("PyTorch bf16", "engines.torch:Torch", "bf16", _TORCH),
    "torch-fp32": Entry("PyTorch float32", "engines.torch:Torch", "fp32", _TORCH),
    "bit-fp32": Entry("BiT in float32 (PyTorch)", "engines.bit:FakeQuantized", packages=("torch",)),
}

# Not timed: the others of the family are checked against it.
CHECKED = {
    **ENGINES,
    "openvino-fp32": Entry("OpenVINO float32", "engines.openvino:OpenVino", "fp32", _OPENVINO),
}

KERNELS = {
    "bitinfer-bits": Entry("**bitinfer**, to bits", "kernels:Own", "codes", ("bitinfer",)),
    "bitinfer-sums": Entry("**bitinfer**, to int32", "kernels:Own", "sums", ("bitinfer",)),
    "numkong-dots": Entry("numkong `dots_packed`", "kernels:NumKong", "dots", ("numkong",)),
    "numkong-hammings": Entry(
        "numkong `hammings_packed`", "kernels:NumKong", "hammings", ("numkong",)
    ),
    "faiss": Entry("faiss `hammings`", "kernels:Faiss", packages=("faiss-cpu",)),
    "simsimd": Entry("simsimd `cdist`", "kernels:SimSimd", packages=("simsimd",)),
    "torch-int8": Entry("int8 (PyTorch `_int_mm`)", "kernels:TorchProduct", "int8", ("torch",)),
    "torch-bf16": Entry("bf16 (PyTorch)", "kernels:TorchProduct", "bf16", ("torch",)),
    "torch-fp32": Entry("float32 (PyTorch)", "kernels:TorchProduct", "fp32", ("torch",)),
    "numpy-fp32": Entry("float32 (NumPy)", "kernels:NumpyProduct", packages=("numpy",)),
    "registers": Entry(
        "xor, popcount, add in registers", "kernels:Registers", packages=("bitinfer",)
    ),
    "memory": Entry("reading memory", "kernels:Memory", packages=("numpy",)),
}

RAGGED = {
    "bitinfer": ENGINES["bitinfer"],
    "openvino-padded": Entry(
        "OpenVINO int8, padded to the longest", "engines.openvino:Padded", "int8", _OPENVINO
    ),
    "openvino-buckets": Entry(
        "OpenVINO int8, sorted into buckets", "engines.openvino:Buckets", "int8", _OPENVINO
    ),
    "openvino-single": Entry(
        "OpenVINO int8, text by text", "engines.openvino:OneByOne", "int8", _OPENVINO
    ),
}

# Held to what processors without AVX-512 have.
AVX2 = {
    "bitinfer": Entry("**bitinfer**", "engines.bitinfer:Bitinfer", "avx2"),
    "ctranslate2-avx2": Entry(
        "CTranslate2 int8", "engines.ctranslate2:CTranslate2", "avx2", ("ctranslate2",)
    ),
}

GROUPS = {"engines": CHECKED, "kernels": KERNELS, "ragged": RAGGED, "avx2": AVX2}
