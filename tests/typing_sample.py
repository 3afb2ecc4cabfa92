"""Not run, only type-checked: what users write must keep its types (see test_typing_sample.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import bitinfer
from bitinfer import BitModel, EncoderOutput, Prediction
from bitinfer.ops import PackedMatrix, bgemm, bgemm_affine, bgemm_threshold, pack_sign


def texts() -> Iterator[str]:
    yield "a"


model = bitinfer.load("sst2", device="cpu", num_threads=1, isa=None)
assert_type(model, BitModel)
assert_type(model.predict("a"), Prediction)
assert_type(model.predict("a", "b"), Prediction)
assert_type(model.predict(("a", "b")), Prediction)
assert_type(model.predict({"text": "a", "text_pair": "b"}), Prediction)
assert_type(model.predict("a", top_k=None), list[Prediction])
assert_type(model.predict(["a", "b"]), list[Prediction])
assert_type(model.predict([("a", "b")]), list[Prediction])
assert_type(model.predict(["a"], ["b"]), list[Prediction])
assert_type(model.predict(texts(), batch_size=8, show_progress_bar=True), list[Prediction])
assert_type(model.predict(["a"], top_k=3), list[list[Prediction]])
assert_type(model.predict_proba(["a"]), NDArray[np.float64])
assert_type(model.logits("a"), NDArray[np.float64])
assert_type(model.encode(["a"], pooling="mean"), NDArray[np.float32])
assert_type(model.labels, list[str])
assert_type(model.info(), dict[str, Any])

label, score, index = model.predict("a")
assert_type(model.predict("a").score, float)
assert_type(model.predict("a").label, str | None)

output = model.forward(np.zeros((1, 2), dtype=np.int64), attention_mask=[[1, 1]])
assert_type(output, EncoderOutput)
assert_type(output.logits, NDArray[np.float32])

a, b = pack_sign(np.ones((2, 64))), PackedMatrix.from_codes([[1, -1]])
assert_type(bgemm(a, b, isa="avx2", num_threads=2), NDArray[np.int32])
assert_type(bgemm_affine(a, b, [1.0], [0.0]), NDArray[np.float64])
assert_type(bgemm_threshold(a, b, [0]), PackedMatrix)
assert_type(a.unpack(), NDArray[np.int8])

bitinfer.convert("folder", "file", labels=["x", "y"], overwrite=True)
assert_type(bitinfer.available_isas(), list[str])
assert_type(bitinfer.__version__, str)

# Mistakes that must be found.
model.predict(3)  # type: ignore[call-overload]
model.predict("a", top_k="1")  # type: ignore[call-overload]
model.encode("a", pooling="max")  # type: ignore[arg-type]
model.predict("a").score = 1.0  # type: ignore[misc]
bitinfer.load("sst2", "cpu")  # type: ignore[call-arg]
bitinfer.no_such_name()  # type: ignore[attr-defined]
