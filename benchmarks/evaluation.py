"""How often the built-in models are right: ``python benchmarks/evaluation.py`` prints JSON.

Needs data that do not come with the repository, in the folder ``BITINFER_SHARED`` (``../shared`` by
default): ``data/sst2/test.tsv``, the 872 sentences that GLUE calls the SST-2 development set, and
``data/clinc150/data_full.json``, whose part ``test`` has 4,500 queries with an intent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bitinfer
from bitinfer.data.evaluation import evaluate
from bitinfer.data.tables import LabelledTexts, read_rows
from bitinfer.runtime.origin import builtin_names
from bitinfer.train.report import METRICS

_ROOT = Path(__file__).parents[1]
_DATA = Path(os.environ.get("BITINFER_SHARED", _ROOT.parent / "shared")) / "data"


def measure() -> dict[str, Any]:
    """Each built-in model on the test set of its task.

    Raises:
        OSError: A test set cannot be read.
    """
    return {name: _model(name) for name in builtin_names()}


def _model(name: str) -> dict[str, Any]:
    model = bitinfer.load(name)
    found = evaluate(model, _TABLES[name]())
    return {
        "labels": len(model.labels),
        "rows": found.count,
        "metric": found.metric,
        "value": found.value,
        "standard_error": METRICS[found.metric].standard_error(found.value, found.count),
        "sha256": model.info()["sha256"],
    }


def _sst2() -> LabelledTexts:
    return read_rows(_DATA / "sst2" / "test.tsv")


def _clinc150() -> LabelledTexts:
    """The queries as the script of the example prepares them, which changes none of them."""
    script = _ROOT / "examples" / "clinc150" / "prepare.py"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--target", "intents", "--input", str(_DATA / "clinc150"), "--output", folder]
        command = [sys.executable, str(script), *options]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return read_rows(Path(folder) / "test.tsv")


_TABLES = {"sst2": _sst2, "clinc150": _clinc150}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
