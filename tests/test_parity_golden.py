"""The engine against what the published code computes in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import parity
import pytest

from bitinfer._core import available_isas
from bitinfer.codes import LAYER_POINTS
from bitinfer.families import read_checkpoint

pytest.importorskip("torch", reason="checkpoints are read with PyTorch")


@pytest.mark.parametrize("case", [*parity.GOLDEN, *parity.MORE_BITS])
def test_every_code_equals_the_published_float64_run(shared: Path, case: str) -> None:
    folder = shared / "golden" / case
    description = read_checkpoint(folder)
    golden = dict(np.load(folder / "golden.npz"))
    for isa in available_isas():
        for threads in (1, 2, 3):
            model = parity.engine(description, isa, threads)
            for row, mask in enumerate(golden["attention_mask"]):
                length = int(mask.sum())
                found = parity.trace(
                    model,
                    golden["input_ids"][row, :length],
                    golden["token_type_ids"][row, :length],
                )
                codes = {k: v[row] for k, v in golden.items() if k.startswith("codes.")}
                assert len(codes) == len(LAYER_POINTS) * description.config.layers + 1
                assert parity.differences(found, codes, length) == {}
                logits = golden["logits"][row]
                wanted = logits[:length] if logits.ndim == 2 else logits[None]
                np.testing.assert_allclose(found["logits"], wanted, rtol=0, atol=1e-12)
                for index in range(description.config.layers + 1):
                    np.testing.assert_allclose(
                        found[f"hidden{index}"],
                        golden[f"hidden{index}"][row, :length],
                        rtol=0,
                        atol=1e-12,
                    )


def test_edge_zeros_reaches_the_masked_products(shared: Path) -> None:
    """Else the case above would prove nothing about zeros."""
    golden = np.load(shared / "golden" / "edge-zeros-96x2" / "golden.npz")
    for point in ("query", "key", "value", "attention.output.in"):
        assert (golden[f"codes.layer0.{point}"] == 0).any(), point


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_trained_model_equals_the_published_float64_run(shared: Path, threads: int) -> None:
    folder = shared / "models" / "bit-sst2"
    golden = np.load(folder / "golden.npz")
    sequences = np.split(golden["ids"], golden["offsets"][1:-1])
    assert len(sequences) == 872
    description = read_checkpoint(folder)
    assert parity.has_zero_weights(description), "training left some"
    runs = [
        parity.forward(parity.engine(description, isa, threads), sequences)["logits"]
        for isa in available_isas()
        if isa != "portable" or threads == 1
    ]
    for logits in runs:
        assert logits.tobytes() == runs[0].tobytes()
    np.testing.assert_allclose(runs[0], golden["logits"], rtol=0, atol=1e-12)
    float32_agrees = np.abs(golden["logits_float32"] - golden["logits"]).max(1) < 1e-3
    assert float32_agrees.sum() < 10, "float32 is expected to be another model"
