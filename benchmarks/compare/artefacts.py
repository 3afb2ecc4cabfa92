"""The models that are compared, made on first use and kept in ``build/compare``.

Each set has its folder there, named by what made it: these lines and the versions of the packages.

    python -m benchmarks.compare.artefacts [MODEL ...]

All engines but bitinfer run one float BERT of random weights, each in the form it is fastest in.
bitinfer and the float run of BiT share a binarized BERT of the same size, random as well.  Random
weights cost what trained ones cost, and nothing has to be fetched.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import ROOT

if TYPE_CHECKING:
    import openvino
    import torch

FOLDER_VARIABLE = "BITINFER_COMPARE_MODELS"
_PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "ctranslate2")
VOCABULARY = 30522
_SEED = 1
_CHECKED = (8, 32)  # texts and tokens of the answers that are compared
_RAGGED = (32, 20, 9, 32, 27, 11)  # tokens of texts of different length whose answers are compared
FIRST = (1, 128)  # of the first answer after a start
_MASKS = {"Attention": 3, "EmbedLayerNormalization": 7}  # which input of ONNX Runtime's operators


def _folder() -> Path:
    """What other versions made is not what is measured, and is not taken for it.

    Workers are told: their start is measured, and to find this out takes time.
    """
    if told := os.environ.get(FOLDER_VARIABLE):
        return Path(told)
    import hashlib

    made_by = hashlib.sha256()
    makers = [Path(__file__), ROOT / "benchmarks" / "models.py", ROOT / "tests" / "seeded.py"]
    for source in [*makers, *sorted((ROOT / "bitinfer").glob("convert*.py"))]:
        made_by.update(source.read_bytes())
    made_by.update(" ".join(f"{name} {version(name)}" for name in _PACKAGES).encode())
    return ROOT / "build" / "compare" / f"models-{made_by.hexdigest()[:12]}"


def version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


FOLDER = _folder()


@dataclass(frozen=True)
class Size:
    layers: int
    hidden: int
    heads: int = 12


SIZES = {"base": Size(12, 768), "small": Size(6, 384)}  # BERT-base and MiniLM-L6


def path(model: str, name: str) -> Path:
    """An artefact, made if it is not there; where ``name`` is a file of a folder, all of it is."""
    target = FOLDER / model / name
    if not target.exists():
        maker = _MAKERS[name.split("/")[0]]
        made = FOLDER / model / name.split("/")[0]
        partial = made.with_name(f"partial-{os.getpid()}-{made.name}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        maker(model, partial)
        if made.is_dir():
            shutil.rmtree(made)
        partial.rename(made)
    return target


def random_ids(lengths: list[int], vocabulary: int = VOCABULARY) -> list[NDArray[np.int64]]:
    """One array of token ids a text, full of tokens that are not special."""
    random = np.random.RandomState(_SEED)
    return [random.randint(1000, vocabulary, length).astype(np.int64) for length in lengths]


def checked_ids() -> NDArray[np.int64]:
    """The texts whose answers are compared, [8, 32]."""
    texts, length = _CHECKED
    return np.stack(random_ids([length] * texts))


def ragged_ids() -> list[NDArray[np.int64]]:
    return random_ids(list(_RAGGED))


def reference(model: str, name: str) -> NDArray[np.float64]:
    """Logits by PyTorch in float64 of the texts of a name, each run alone where they differ."""
    logits: NDArray[np.float64] = np.load(path(model, name))
    return logits


def _bert(model: str, attention: str = "sdpa") -> torch.nn.Module:
    from transformers import BertForSequenceClassification

    bert: torch.nn.Module = BertForSequenceClassification.from_pretrained(
        path(model, "float"), attn_implementation=attention
    )
    return bert.eval()


def _make_float(model: str, folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    size = SIZES[model]
    torch.manual_seed(_SEED)
    config = BertConfig(
        num_hidden_layers=size.layers,
        hidden_size=size.hidden,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.hidden,
        position_embedding_type="absolute",  # the converter of CTranslate2 asks for it
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(f"word{index}" for index in range(VOCABULARY - len(special)))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def _make_logits(model: str, file: Path) -> None:
    _save_logits(model, [checked_ids()], file)


def _make_first(model: str, file: Path) -> None:
    _save_logits(model, [np.stack(random_ids([FIRST[1]] * FIRST[0]))], file)


def _make_ragged(model: str, file: Path) -> None:
    _save_logits(model, [ids[None] for ids in ragged_ids()], file)


def _save_logits(model: str, batches: list[NDArray[np.int64]], file: Path) -> None:
    import torch

    bert = _bert(model).double()
    with torch.no_grad():
        logits = [bert(input_ids=torch.from_numpy(ids)).logits.numpy() for ids in batches]
    with file.open("wb") as stream:
        np.save(stream, np.concatenate(logits))


def _make_onnx(model: str, folder: Path) -> None:
    """Fused by ONNX Runtime's optimizer, which knows the legacy exporter's patterns; then int8.

    The optimizer looks for a mask; from what it has fused, the mask is taken out again.
    """
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    size = SIZES[model]
    folder.mkdir()
    plain, fused = folder / "plain.onnx", folder / "fp32.onnx"
    ids = torch.from_numpy(checked_ids())
    axes = {0: "batch", 1: "length"}
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        _Logits(_bert(model, "eager")),
        (ids, torch.ones_like(ids)),
        str(plain),
        dynamo=False,
        opset_version=17,
        input_names=names,
        output_names=["logits"],
        dynamic_axes=dict.fromkeys(names, axes),
    )
    graph = optimizer.optimize_model(
        str(plain), "bert", num_heads=size.heads, hidden_size=size.hidden, opt_level=1
    )
    attentions = graph.get_nodes_by_op_type("Attention")
    if len(attentions) != size.layers:
        raise RuntimeError(f"fused attention: found {len(attentions)} of {size.layers} layers")
    for operator, index in _MASKS.items():
        for node in graph.get_nodes_by_op_type(operator):
            if len(node.input) > index:
                node.input[index] = ""
    graph.prune_graph(allow_remove_graph_inputs=True)
    graph.save_model_to_file(str(fused))
    plain.unlink()
    quantize_dynamic(
        fused,
        folder / "int8.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def _make_openvino(model: str, folder: Path) -> None:
    """Float and int8, and int8 with a mask for texts of different length.

    Full texts need no mask, and are faster without.  Those that measure the start have their shape
    in the file: what is compiled from a cached file need not be read.
    """
    import nncf
    import openvino

    folder.mkdir()
    texts = [ids[None] for ids in random_ids([128] * 32)]
    for name, inputs in (("", 1), ("masked-", 2)):
        converted = _openvino(model, inputs)
        if inputs == 1:
            openvino.save_model(converted, folder / "fp32.xml", compress_to_fp16=False)
        samples = [(ids, np.ones_like(ids))[:inputs] for ids in texts]
        quantized = nncf.quantize(
            converted,
            nncf.Dataset(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # as fast as or faster than mixed
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(samples),
        )
        openvino.save_model(quantized, folder / f"{name}int8.xml")
        if inputs == 1:
            for kind, network in (("fp32", converted), ("int8", quantized)):
                network.reshape(list(FIRST))
                openvino.save_model(network, folder / f"first-{kind}.xml", compress_to_fp16=False)


def _openvino(model: str, inputs: int) -> openvino.Model:
    import openvino
    import torch

    ids = torch.from_numpy(checked_ids())
    example = (ids, torch.ones_like(ids))[:inputs]
    shapes = [openvino.PartialShape([-1, -1])] * inputs
    with torch.no_grad():
        return openvino.convert_model(_Logits(_bert(model)), example_input=example, input=shapes)


def _make_ctranslate2(model: str, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(path(model, "float"))).convert(str(folder), quantization="int8")
    bert = _bert(model)
    head: Any = bert.classifier
    arrays = {"weight": head.weight.detach().numpy(), "bias": head.bias.detach().numpy()}
    np.savez(folder / "head.npz", **arrays)


def _make_checkpoint(model: str, folder: Path) -> None:
    from benchmarks.models import text_checkpoint

    size = SIZES[model]
    text_checkpoint(
        folder,
        layers=size.layers,
        hidden=size.hidden,
        heads=size.heads,
        intermediate=4 * size.hidden,
        length=128,
    )


def _make_packed(model: str, file: Path) -> None:
    from bitinfer.conversion.convert import convert

    convert(path(model, "checkpoint"), file, verify=False)  # the check of the engine does it


_MAKERS: dict[str, Callable[[str, Path], None]] = {
    "float": _make_float,
    "logits.npy": _make_logits,
    "first.npy": _make_first,
    "ragged.npy": _make_ragged,
    "onnx": _make_onnx,
    "openvino": _make_openvino,
    "ctranslate2": _make_ctranslate2,
    "checkpoint": _make_checkpoint,
    "packed.safetensors": _make_packed,
}


def _Logits(bert: torch.nn.Module) -> torch.nn.Module:  # noqa: N802  # a class, made late
    """The model as a function of ids and perhaps a mask."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
        ) -> torch.Tensor:
            logits: torch.Tensor = self.bert(
                input_ids=input_ids, attention_mask=attention_mask
            ).logits
            return logits

    return Logits()


def main() -> None:
    for model in sys.argv[1:] or SIZES:
        for name in _MAKERS:
            path(model, name)


if __name__ == "__main__":
    main()
