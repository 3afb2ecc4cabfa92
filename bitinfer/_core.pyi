"""Types of the native module, which documents itself: ``help(bitinfer._core)``."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_I32: TypeAlias = NDArray[np.int32]
_I64: TypeAlias = NDArray[np.int64]
_F64: TypeAlias = NDArray[np.float64]
_Floats: TypeAlias = NDArray[np.floating[Any]]
_Words: TypeAlias = NDArray[np.uint64]
_Plane: TypeAlias = _Words | None
_Isa: TypeAlias = str | None
_Threads: TypeAlias = int | None

def available_isas() -> list[str]: ...
def resolve_isa(isa: _Isa = ...) -> str: ...
def cpu_features() -> dict[str, bool]: ...
def build_info() -> dict[str, str]: ...
def kernel_calls() -> dict[str, int]: ...
def resolve_num_threads(num_threads: _Threads = ...) -> int: ...
def exp(x: _Floats) -> _F64: ...
def tanh(x: _Floats) -> _F64: ...
def erf(x: _Floats) -> _F64: ...
def gelu(x: _Floats) -> _F64: ...
def softmax(x: _F64) -> _F64: ...

class Model:
    def __init__(
        self,
        config: Mapping[str, int | str | Mapping[str, str]],
        tensors: Mapping[str, NDArray[Any]],
        isa: _Isa = ...,
        num_threads: _Threads = ...,
    ) -> None: ...
    def forward(
        self,
        ids: _I32,
        positions: _I32,
        segments: _I32,
        offsets: _I64,
        keys: _I32,
        first: _I64,
        hidden: bool = ...,
        stages: bool = ...,
    ) -> dict[str, Any]: ...
    def trace(
        self,
        ids: _I32,
        positions: _I32,
        segments: _I32,
        keys: int,
        first: int,
        layer: int = ...,
        hidden: _F64 | None = ...,
    ) -> dict[str, NDArray[Any]]: ...
    @property
    def isa(self) -> str: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...
    @property
    def config(self) -> dict[str, int | str | dict[str, str]]: ...

class RightOperand:
    def __init__(self, bits: _Words, nonzero: _Plane, k: int) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def k(self) -> int: ...

def pack_greater(
    x: _Floats, thresholds: _F64 | None = ..., isa: _Isa = ...
) -> tuple[_Words, _Plane]: ...
def bgemm(
    a: _Words,
    a_nonzero: _Plane,
    unsigned: bool,
    b: RightOperand,
    isa: _Isa = ...,
    num_threads: _Threads = ...,
) -> _I32: ...
def bgemm_reference(a: _Words, a_nonzero: _Plane, unsigned: bool, b: RightOperand) -> _I32: ...
def bgemm_affine(
    a: _Words,
    a_nonzero: _Plane,
    unsigned: bool,
    b: RightOperand,
    scale: _F64,
    bias: _F64,
    isa: _Isa = ...,
    num_threads: _Threads = ...,
) -> _F64: ...
def bgemm_threshold(
    a: _Words,
    a_nonzero: _Plane,
    unsigned: bool,
    b: RightOperand,
    threshold: _I32,
    low: _I32 | None,
    ternary: bool,
    isa: _Isa = ...,
    num_threads: _Threads = ...,
) -> tuple[_Words, _Plane]: ...
def popcount_probe(isa: str, steps: int) -> int: ...
