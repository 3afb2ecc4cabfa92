"""Thread counts that must stand before NumPy is imported, and the models that are timed.

``pytest benchmarks`` runs everything; ``python benchmarks/table.py --update`` does so and puts the
figures into the documentation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from models import Subject

# NumPy's matrix product is compared with one thread of ours; its library reads this when loaded.
if "numpy" in sys.modules:
    raise pytest.UsageError("benchmarks: NumPy is already imported, its threads cannot be set")
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import machine  # noqa: E402  # notes how busy the machine is


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """What a reader needs to judge the figures, instead of what identifies the host."""
    machine_info.clear()
    machine_info.update(machine.describe())


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """A model by its name, made when it is first asked for."""
    from models import Subject, seeded_model

    made = {"sst2": Subject("sst2")}

    def make(name: str) -> Subject:
        if name not in made:
            pytest.importorskip("torch", reason="checkpoints are read with PyTorch")
            made[name] = seeded_model(tmp_path_factory.mktemp("models"))
        return made[name]

    return make
