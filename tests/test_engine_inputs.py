"""The engine checks everything it is given: each mistake is an error that names it, never a crash.

All tests run in one process, which has to survive them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitinfer._core import Model
from bitinfer.config import SIZES
from bitinfer.errors import FormatError, InputError
from bitinfer.runtime.format import read_packed

FILE = Path(__file__).parent / "data" / "format-1.safetensors"
METADATA, TENSORS = read_packed(FILE)
CONFIG = {
    **{key: METADATA["config"][key] for key in SIZES},
    "activation": "gelu",
    "reads": "pooled",
    "codes": METADATA["codes"],
}
HIDDEN, VOCAB, POSITIONS = CONFIG["hidden"], CONFIG["vocab"], CONFIG["positions"]
LAYERS = CONFIG["layers"]
OPTIONAL = ("zero_rows", "nonzero", "falls")


def make(config: dict[str, Any] | None = None, **tensors: Any) -> Model:
    """The model of the file with some settings and tensors changed; None takes a tensor out."""
    changed = {**TENSORS, **tensors}
    return Model({**CONFIG, **(config or {})}, {k: v for k, v in changed.items() if v is not None})


@pytest.fixture(scope="module")
def model() -> Model:
    return make()


@pytest.fixture(autouse=True)
def survives(model: Model) -> Any:
    """After each mistake the model still gives the same bits."""
    before = forward(model)["logits"].tobytes()
    yield
    assert forward(model)["logits"].tobytes() == before


# ---- tensors


@pytest.mark.parametrize("name", sorted(TENSORS))
def test_every_tensor_is_checked(name: str) -> None:
    tensor = TENSORS[name]
    if not name.endswith("falls"):
        with pytest.raises(FormatError, match=f"'{name}' is missing"):
            make(**{name: None})
    wrong = {
        "dtype": tensor.astype(np.float64 if tensor.dtype == np.float32 else np.float32),
        "byte order": tensor.astype(tensor.dtype.newbyteorder()),
        "type": tensor.astype(np.int64),
        "shape": tensor[:-1] if len(tensor) > 1 else np.repeat(tensor, 2, axis=0),
        "axes": tensor[None],
        "no axis": np.array(tensor.reshape(-1)[0]),
        "empty": tensor[:0],
        "strides": np.repeat(tensor, 2, axis=0)[::2],
        "alignment": misaligned(tensor),
    }
    if len(tensor) == 1:
        del wrong["strides"]  # one element has none
    if name.endswith("rises"):
        wrong["shape"] = tensor[:, :-1].copy()  # signs may have one level less
    # Rows with zeros and their plane have one length: either may be named.
    names = rf"{name}|{name.rpartition('.')[0]}\.(zero_rows|nonzero)"
    for kind, value in wrong.items():
        assert re.match(f"tensor '({names})': ", refusal(**{name: value})), kind


def refusal(**tensors: np.ndarray) -> str:
    try:
        make(**tensors)
    except FormatError as error:
        return str(error)
    return "accepted"


def misaligned(tensor: np.ndarray) -> np.ndarray:
    data = np.frombuffer(b"\0" + tensor.tobytes(), np.uint8)[1:]
    return data.view(tensor.dtype).reshape(tensor.shape)


def test_unknown_tensors() -> None:
    for name in ("x", "layer.2.query.bits", "layer.0.intermediate.rises", "pooler.rises"):
        with pytest.raises(FormatError, match=rf"'{name}' \(float32 \[2, 3\]\) does not belong"):
            make(**{name: np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize("name", sorted(k for k, v in TENSORS.items() if v.dtype.kind == "f"))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_are_finite(name: str, value: float) -> None:
    tensor = TENSORS[name].copy()
    tensor.reshape(-1)[-1] = value
    index = tensor.size - 1
    with pytest.raises(
        FormatError, match=f"'{name}': found the value -?(nan|inf) at index {index}"
    ):
        make(**{name: tensor})


@pytest.mark.parametrize("name", sorted(k for k in TENSORS if k.endswith("step")))
@pytest.mark.parametrize("value", [0, -0.0, -1])
def test_steps_are_positive(name: str, value: float) -> None:
    with pytest.raises(FormatError, match=f"'{name}': found .*, expected a value above 0"):
        make(**{name: np.array([value], np.float32)})


@pytest.mark.parametrize("name", sorted(k for k in TENSORS if k.endswith("scale")))
def test_scales_are_not_negative(name: str) -> None:
    tensor = TENSORS[name].copy()
    tensor[-1] = -1e-300
    with pytest.raises(FormatError, match=f"'{name}': found .*, expected values from 0 to"):
        make(**{name: tensor})
    make(**{name: np.zeros_like(tensor)})  # as of a padding row


@pytest.mark.parametrize("name", sorted(k for k, v in TENSORS.items() if v.dtype == np.uint64))
def test_padding_bits_are_zero(name: str) -> None:
    used = columns_of(name) % 64
    assert used
    for bit in (used, 63):
        tensor = TENSORS[name].copy()
        tensor[-1, -1] |= np.uint64(1) << np.uint64(bit)
        with pytest.raises(FormatError, match=f"'{name}': found padding bits set in row"):
            make(**{name: tensor})


def reach_of(name: str) -> int:
    """The largest sum at a point."""
    return POSITIONS if ".attention." in name else HIDDEN


def columns_of(name: str) -> int:
    return CONFIG["intermediate"] if re.match(r"layer\.\d+\.output\.", name) else HIDDEN


@pytest.mark.parametrize("name", sorted(k[:-10] for k in TENSORS if k.endswith("zero_rows")))
def test_rows_with_zeros(name: str) -> None:
    rows, plane = TENSORS[f"{name}.zero_rows"], TENSORS[f"{name}.nonzero"]
    total = len(TENSORS[f"{name}.bits"])
    assert len(rows) > 1
    no_zeros = np.full_like(plane, 2**64 - 1)
    no_zeros[:, -1] >>= np.uint64(64 - columns_of(f"{name}.") % 64)
    bad_rows = {
        "unordered": rows[::-1],
        "repeated": np.repeat(rows[:1], len(rows)),
        "negative": np.array([-1, *rows[1:]]),
        "out of range": np.array([*rows[:-1], total]),
        "huge": np.array([*rows[:-1], 2**31 - 1]),
    }
    for value in bad_rows.values():
        changed = np.ascontiguousarray(value, np.int32)
        with pytest.raises(
            FormatError, match=f"'{name}.zero_rows': found .* at index .* ascending"
        ):
            make(**{f"{name}.zero_rows": changed, f"{name}.nonzero": no_zeros})
    with pytest.raises(FormatError, match=f"'{name}.zero_rows': found no rows"):
        make(**{f"{name}.zero_rows": rows[:0], f"{name}.nonzero": plane[:0]})
    with pytest.raises(FormatError, match=f"'{name}.nonzero'"):
        make(**{f"{name}.nonzero": plane[:-1].copy()})
    signed = TENSORS[f"{name}.bits"].copy()
    cleared = plane[0].copy()
    cleared[0] ^= cleared[0] & (~cleared[0] + np.uint64(1))  # its lowest code becomes 0
    signed[rows[0]] = plane[0]
    with pytest.raises(FormatError, match=f"'{name}.nonzero': found a code of 0 with its sign bit"):
        make(**{f"{name}.bits": signed, f"{name}.nonzero": np.vstack([cleared, plane[1:]])})


def test_optional_tensors_are_optional() -> None:
    plain = {k: None for k in TENSORS if k.endswith(OPTIONAL)}
    assert len(plain) == 30
    assert np.isfinite(forward(make(**plain))["logits"]).all()


def test_extreme_values() -> None:
    """No tensor that is accepted makes the engine overflow to infinity or NaN."""
    for name, tensor in TENSORS.items():
        limits = np.iinfo(tensor.dtype) if tensor.dtype.kind in "iu" else np.finfo(tensor.dtype)
        values = [limits.max, limits.tiny if tensor.dtype.kind == "f" else limits.min]
        if name.endswith(".scale"):
            too_large = np.full_like(tensor, float(np.finfo(np.float32).max) * 1.001)
            with pytest.raises(FormatError, match=f"'{name}': found .*e\\+38, expected values"):
                make(**{name: too_large})
            values[0] = float(np.finfo(np.float32).max)
        changes: dict[str, Any] = {}
        if name.endswith("rises"):
            reach = reach_of(name)
            values, changes = [-reach - 1, reach], {name.replace("rises", "falls"): None}
        if tensor.dtype != np.uint64 and not name.endswith(("zero_rows", "falls")):
            for value in values:
                changes[name] = np.full_like(tensor, value)
                output = forward(make(**changes), hidden=True)
                assert all(np.isfinite(array).all() for array in output.values()), name


def test_no_tensors_at_all() -> None:
    with pytest.raises(FormatError, match=r"tensor 'embeddings\.word\.bits' is missing"):
        Model(CONFIG, {})


@pytest.mark.parametrize("value", [None, [1.0], 1.0, "x", b"x"])
def test_tensors_are_arrays(value: Any) -> None:
    with pytest.raises(TypeError):
        Model(CONFIG, {**TENSORS, "head.bias": value})


# ---- settings


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_every_setting_is_needed(key: str) -> None:
    with pytest.raises(FormatError, match=f"'{key}' is missing"):
        Model({k: v for k, v in CONFIG.items() if k != key}, TENSORS)


@pytest.mark.parametrize("key", SIZES)
def test_sizes(key: str) -> None:
    for value in (0, -1, -(2**63), 2**31, 2**63 - 1):
        with pytest.raises(FormatError, match=f"'{key}': found {value}, expected 1 to"):
            make({key: value})
    with pytest.raises(FormatError, match=f"'{key}': expected an integer"):
        make({key: "8"})
    for value in (8.0, None, [8], 2**63, -(2**63) - 1, 10**30):
        with pytest.raises(TypeError):
            make({key: value})
    if key != "heads":  # which no tensor depends on
        for value in (CONFIG[key] + 1, CONFIG[key] - 1):
            with pytest.raises(FormatError, match=r"^tensor '|^config 'heads'"):
                make({key: value})


def test_unknown_setting() -> None:
    with pytest.raises(FormatError, match="is unknown to the engine"):
        make({"head": "span"})


def test_heads() -> None:
    for heads in (5, 7, 71):
        with pytest.raises(FormatError, match=f"'heads': found {heads}, expected a divisor"):
            make({"heads": heads})
    with pytest.raises(FormatError, match="'heads': found 144, expected 1 to 72"):
        make({"heads": 144})


@pytest.mark.parametrize("key", ["reads", "activation"])
@pytest.mark.parametrize("value", ["regression", "", "Pooled", 1])
def test_choices(key: str, value: Any) -> None:
    with pytest.raises(FormatError, match=f"'{key}': (found '{value}', )?expected"):
        make({key: value})


def test_codes_of_every_point() -> None:
    for point, name in CONFIG["codes"].items():
        others = {k: v for k, v in CONFIG["codes"].items() if k != point}
        with pytest.raises(FormatError, match=f"'{point}'"):
            make({"codes": others})
        with pytest.raises(FormatError, match="codes"):
            make({"codes": {**others, point.upper(): name}})
        sign = "signed" if name == "unsigned-1" else "unsigned"
        for wrong in ("", "signed-0", "signed-5", "unsigned-1-from-min", f"{sign}-2"):
            with pytest.raises(FormatError, match=point):
                make({"codes": {**others, point: wrong}})
    with pytest.raises(FormatError, match="unknown point"):
        make({"codes": {**CONFIG["codes"], "keys": "signed-1"}})


@pytest.mark.parametrize("point", ["query", "key", "value", "attention.output.in", "output.in"])
def test_levels_are_in_order(point: str) -> None:
    name = f"layer.0.{point}"
    rises = TENSORS[f"{name}.rises"].copy()
    reach = reach_of(name)
    for value in (-reach - 2, reach + 1):
        rises[-1, 3] = value
        with pytest.raises(FormatError, match=f"'{name}.rises': found {value} at index"):
            make(**{f"{name}.rises": rises})
    if len(rises) == 2:
        rises[:, 3] = 1, 0
        with pytest.raises(FormatError, match=f"'{name}.rises': found values out of order"):
            make(**{f"{name}.rises": rises})
    else:
        rises[0, 3] = 0
        falls = TENSORS[f"{name}.falls"].copy()
        falls[0, 3] = 2
        with pytest.raises(FormatError, match=f"'{name}.falls': found values out of order"):
            make(**{f"{name}.rises": rises, f"{name}.falls": falls})
    with pytest.raises(FormatError, match=f"'{name}.rises': found 3 levels"):
        make(**{f"{name}.rises": np.repeat(rises[:1], 3, 0)})


# ---- forward and trace

# Two sequences, of five and of three tokens.
BATCH: dict[str, np.ndarray] = {
    "ids": np.array([2, 5, 6, 7, 3, 2, 9, 3], np.int32),
    "positions": np.array([0, 1, 2, 3, 4, 0, 1, 2], np.int32),
    "segments": np.array([0, 0, 0, 1, 1, 0, 0, 0], np.int32),
    "offsets": np.array([0, 5, 8], np.int64),
    "keys": np.array([5, 3], np.int32),
    "first": np.array([0, 5], np.int64),
}


def forward(model: Model, hidden: bool = False, **changes: Any) -> dict[str, np.ndarray]:
    return model.forward(**{**BATCH, **changes}, hidden=hidden)


def trace(model: Model, **changes: Any) -> dict[str, np.ndarray]:
    """The first of the two sequences."""
    tokens = {name: BATCH[name][:5] for name in ("ids", "positions", "segments")}
    return model.trace(**{**tokens, "keys": 5, "first": 0, **changes})


def test_trace_is_forward(model: Model) -> None:
    expected = forward(model, hidden=True)
    found = trace(model)
    assert found["logits"].tobytes() == expected["logits"][:1].tobytes()
    assert found[f"hidden{LAYERS}"].tobytes() == expected["hidden"][:5].tobytes()


@pytest.mark.parametrize("name", ["ids", "positions", "segments", "offsets", "keys", "first"])
def test_arrays_are_checked(model: Model, name: str) -> None:
    right = BATCH[name]
    other = np.int64 if right.dtype == np.int32 else np.int32
    wrong = [
        *(right.astype(kind) for kind in (other, np.uint32, np.float64, np.bool_, ">i4", ">i8")),
        *(right[None], right[:, None], np.append(right, right), right[:0]),
        *(np.repeat(right, 2)[::2], misaligned(right)),
    ]
    for value in wrong:
        # Counts come from ids and offsets: what does not fit them is named in their place.
        named = {"ids": "ids|positions|offsets", "offsets": "offsets|keys"}.get(name, name)
        with pytest.raises(InputError, match=f"^({named}): "):
            forward(model, **{name: value})
    for value in (None, right.tolist(), "x", 3):
        with pytest.raises(TypeError):
            forward(model, **{name: value})


@pytest.mark.parametrize(
    ("name", "limit"), [("ids", VOCAB), ("positions", POSITIONS), ("segments", 2)]
)
def test_tokens_are_in_range(model: Model, name: str, limit: int) -> None:
    right = BATCH[name]
    for value in (-1, limit, 2**31 - 1, -(2**31)):
        for at in (0, 7):
            changed = right.copy()
            changed[at] = value
            message = (
                f"^{name.removesuffix('s')} at token {at} is {value}, expected 0 to {limit - 1}"
            )
            with pytest.raises(InputError, match=message):
                forward(model, **{name: changed})
        changed = right[:5].copy()
        changed[4] = value
        with pytest.raises(InputError, match=f"at token 4 is {value}"):
            trace(model, **{name: changed})


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 5, 8], "offsets must start at 0"),
        ([-1, 5, 8], "offsets must start at 0"),
        ([0, 5, 7], "offsets: found the end 7, expected the number of tokens, 8"),
        ([0, 5, 9], "offsets: found the end 9"),
        ([0, 5, 2**62], "offsets: found the end"),
        ([0, 5, -8], "offsets: found the end -8"),
        ([0, 0, 8], "sequence 0 has tokens 0 to 0,"),
        ([0, 8, 8], "sequence 1 has tokens 8 to 8,"),
        ([0, 9, 8], "sequence 1 has tokens 9 to 8,"),
        ([0, -1, 8], "sequence 0 has tokens 0 to -1,"),
        ([0, 2**62, 8], "sequence 0 has tokens 0 to 4611686018427387904,"),
        ([0, -(2**63), 8], "sequence 0 has tokens 0 to -9223372036854775808,"),
    ],
)
def test_offsets(model: Model, offsets: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        forward(model, offsets=np.array(offsets, np.int64))


def test_empty_batches(model: Model) -> None:
    none = np.zeros(0, np.int32)
    nothing = {"ids": none, "positions": none, "segments": none}
    for offsets in ([], [0]):
        with pytest.raises(InputError, match="expected at least one sequence"):
            forward(model, **nothing, offsets=np.array(offsets, np.int64), keys=none)
    zero = {"offsets": np.array([0, 0]), "keys": np.zeros(1, np.int32), "first": np.array([0])}
    with pytest.raises(InputError, match="sequence 0 has tokens 0 to 0,"):
        forward(model, **nothing, **zero)
    with pytest.raises(InputError, match="sequence 0 has tokens 0 to 0,"):
        trace(model, **nothing)


@pytest.mark.parametrize("keys", [0, -1, 6, 2**31 - 1, -(2**31)])
def test_keys(model: Model, keys: int) -> None:
    with pytest.raises(InputError, match=f"sequence 0 attends to {keys} tokens, expected 1 to"):
        forward(model, keys=np.array([keys, 3], np.int32))
    with pytest.raises(InputError, match=f"sequence 0 attends to {keys} tokens"):
        trace(model, keys=keys)


@pytest.mark.parametrize("first", [-1, 5, 2**62])
def test_first(model: Model, first: int) -> None:
    with pytest.raises(
        InputError, match=f"sequence 0 pools token {first}, expected one of its own"
    ):
        forward(model, first=np.array([first, 5]))
    with pytest.raises(InputError, match="sequence 1 pools token 4"):
        forward(model, first=np.array([0, 4]))
    with pytest.raises(InputError, match=f"sequence 0 pools token {first}"):
        trace(model, first=first)


def test_lengths(model: Model) -> None:
    def run(length: int, keys: int) -> None:
        tokens = {name: np.zeros(length, np.int32) for name in ("ids", "positions", "segments")}
        one = {"keys": np.array([keys], np.int32), "first": np.array([0])}
        forward(model, **tokens, offsets=np.array([0, length]), **one)
        trace(model, **tokens, keys=keys)

    run(POSITIONS, POSITIONS)
    run(POSITIONS + 1, POSITIONS)  # and a masked column 0, which only asks
    with pytest.raises(InputError, match=f"attends to {POSITIONS + 1} tokens"):
        run(POSITIONS + 1, POSITIONS + 1)
    for length in (POSITIONS + 2, 100_000):
        with pytest.raises(
            InputError, match=f"tokens 0 to {length}, expected 1 to {POSITIONS + 1}"
        ):
            run(length, POSITIONS)


@pytest.mark.parametrize("layer", [-1, LAYERS + 1, 2**40, -(2**63)])
def test_layer(model: Model, layer: int) -> None:
    hidden = np.zeros((5, HIDDEN))
    with pytest.raises(InputError, match=f"layer: found {layer}, expected 0 to {LAYERS}"):
        trace(model, layer=layer, hidden=hidden)


def test_hidden_states(model: Model) -> None:
    complete = trace(model)
    for layer in range(LAYERS + 1):
        later = trace(model, layer=layer, hidden=complete[f"hidden{layer}"])
        assert later["logits"].tobytes() == complete["logits"].tobytes()
    with pytest.raises(InputError, match=r"layer: found 1, expected .* hidden states"):
        trace(model, layer=1)
    hidden = complete["hidden1"]
    wrong = [
        *(hidden.astype(kind) for kind in (np.float32, np.int64, ">f8")),
        *(hidden[:4], hidden[:, :-1], hidden[None], np.append(hidden, hidden, axis=0)),
        *(np.asfortranarray(hidden), misaligned(hidden)),
    ]
    for value in wrong:
        with pytest.raises(InputError, match=r"^hidden: "):
            trace(model, layer=1, hidden=value)
    for value in (np.nan, np.inf, 1e308, -1e308):
        trace(model, layer=1, hidden=np.full_like(hidden, value))  # whatever comes out


# ---- options


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31 - 1])
def test_num_threads(threads: int) -> None:
    with pytest.raises(InputError, match=f"num_threads={threads}: expected"):
        Model(CONFIG, TENSORS, None, threads)
