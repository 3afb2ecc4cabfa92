"""BERT folders as Hugging Face writes them: what is read, and what is refused."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("transformers", reason="teachers are its models")

import torch
import transformers

from bitinfer.errors import ConversionError, InputError
from bitinfer.train.teacher import as_student, has_head, open_folder, read_bert

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdeE", "É", "##a", "##b", "##é", "中"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def silent() -> Iterator[None]:
    """Without the bars of transformers where a test saves a model."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    yield
    log.set_verbosity(level)
    if bars:
        log.enable_progress_bar()


@pytest.fixture(scope="module")
def original() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, num_labels=3, initializer_range=0.5)
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1, 0.2)
    return model


@pytest.fixture(scope="module")
def written(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    original.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return shutil.copytree(written, tmp_path / "teacher")


def change(folder: Path, name: str = "config.json", **changes: Any) -> None:
    path = folder / name
    settings = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**settings, **changes}))


def save(folder: Path, state: State) -> None:
    """As ``pytorch_model.bin``, with no other weights beside it."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(state, folder / "pytorch_model.bin")


def equal(model: Any, state: State) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


# ---- what is read


def test_a_folder(original: Any, folder: Path) -> None:
    teacher = open_folder(str(folder))
    assert teacher.path == folder
    assert teacher.vocab == "\n".join(WORDS)
    assert teacher.lowercase
    assert teacher.config.positions == 16
    assert teacher.settings["hidden_size"] == 8
    model = read_bert(teacher, outputs=3, head=True)
    assert equal(model, original.state_dict())
    assert not model.training
    student = as_student(model, dtype=torch.bfloat16)
    assert str(student.bits) == "32-32-32"
    assert student.config.labels == 3
    for key, value in original.state_dict().items():
        assert torch.equal(student.state_dict()[key], value)
    others = student.state_dict().keys() - original.state_dict().keys()
    assert {key.rpartition(".")[0].rpartition(".")[2] for key in others if "bias" in key} == {
        "move"
    }
    assert not any(student.state_dict()[key].any() for key in others if key.endswith("move.bias"))


def old_names(state: State) -> State:
    return {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for key, value in state.items()
    }


FORMS: dict[str, Callable[[State], State]] = {
    "pytorch_model.bin": lambda state: state,
    "gamma and beta": old_names,
    "float64": lambda state: {key: value.double() for key, value in state.items()},
    "of pre-training": lambda state: {
        **state,
        "bert.embeddings.position_ids": torch.arange(16)[None],
        "cls.predictions.bias": torch.zeros(len(WORDS)),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_weights(original: Any, folder: Path, form: str) -> None:
    save(folder, FORMS[form](original.state_dict()))
    assert has_head(open_folder(folder))
    model = read_bert(open_folder(folder), outputs=3, head=True)
    assert equal(model, original.state_dict())
    assert model.dtype == torch.float32


def test_half_and_sharded_weights(original: Any, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    half = transformers.BertForSequenceClassification(original.config).bfloat16()
    half.load_state_dict(original.state_dict())
    half.save_pretrained(folder, max_shard_size="1KB")
    assert (folder / "model.safetensors.index.json").exists()
    assert has_head(open_folder(folder))
    model = read_bert(open_folder(folder), outputs=3, head=True)
    assert equal(model, {k: v.bfloat16().float() for k, v in original.state_dict().items()})


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize("pooler", [True, False])
def test_encoders(original: Any, folder: Path, prefix: str, pooler: bool) -> None:
    """Without a head, maybe without a pooler: both are drawn for fine-tuning."""
    state = original.state_dict()
    kept = {
        key: value
        for key, value in state.items()
        if key.startswith("bert.") and (pooler or ".pooler." not in key)
    }
    save(folder, {prefix + key.removeprefix("bert."): value for key, value in kept.items()})
    model = read_bert(open_folder(folder), outputs=2, head=False)
    assert equal(model, {**model.state_dict(), **kept})
    assert model.classifier.weight.shape == (2, 8)
    assert model.classifier.weight.any()
    assert model.bert.pooler.dense.weight.isfinite().all()
    assert not has_head(open_folder(folder))
    name = "classifier" if pooler else r"bert\.pooler\.dense"
    with pytest.raises(ConversionError, match=rf"no weights {name}\.bias, .*`bitinfer finetune`"):
        read_bert(open_folder(folder), outputs=2, head=True)


def test_a_head_for_fine_tuning(original: Any, folder: Path) -> None:
    """One of the right size is kept, another is replaced."""
    kept = read_bert(open_folder(folder), outputs=3, head=False)
    assert equal(kept, original.state_dict())
    drawn = read_bert(open_folder(folder), outputs=2, head=False, dropout=0.25)
    assert drawn.classifier.weight.shape == (2, 8)
    assert torch.equal(drawn.bert.pooler.dense.weight, original.bert.pooler.dense.weight)
    assert drawn.config.hidden_dropout_prob == drawn.config.attention_probs_dropout_prob == 0.25


def test_reading_is_quiet(original: Any, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No bar and no table, though weights are missing; and what was set before is again."""
    log = transformers.utils.logging
    log.set_verbosity(logging.INFO)
    log.enable_progress_bar()
    save(folder, {k: v for k, v in original.state_dict().items() if "classifier" not in k})
    read_bert(open_folder(folder), outputs=2, head=False)
    with pytest.raises(ConversionError):
        read_bert(open_folder(folder), outputs=2, head=True)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert log.get_verbosity() == logging.INFO
    assert log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    read_bert(open_folder(folder), outputs=2, head=False)
    assert not log.is_progress_bar_enabled()


# ---- tokens

TEXTS = [
    *(
        "a b c",
        "",
        "É é E e",
        "aab, abb! a#b",
        "中a中",
        "x\ty\u00a0z",
        "[SEP] [MASK]",
        "a" * 99 + "b",
    ),
    *("e\u0301", "A\u0000\u200bB", "aba" * 50),
]


def check_tokens(folder: Path, theirs: Any = None) -> None:
    teacher = open_folder(folder)
    theirs = theirs or transformers.BertTokenizer.from_pretrained(folder, local_files_only=True)
    for pairs in (
        [(text, None) for text in TEXTS],
        [(text, TEXTS[index - 1]) for index, text in enumerate(TEXTS) if TEXTS[index - 1]],
    ):
        batch = teacher.tokenizer().encode(pairs, max_length=400)
        for index, (text, second) in enumerate(pairs):
            wanted = theirs(text, second, return_token_type_ids=True)
            own = slice(batch.offsets[index], batch.offsets[index + 1])
            assert batch.ids[own].tolist() == wanted["input_ids"], text
            assert batch.segments[own].tolist() == wanted["token_type_ids"], text


@pytest.mark.parametrize("lowercase", [True, False])
def test_tokens_are_those_of_transformers(folder: Path, lowercase: bool) -> None:
    change(folder, "tokenizer_config.json", do_lower_case=lowercase)
    assert open_folder(folder).lowercase == lowercase
    check_tokens(folder)


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_tokenizer_as_transformers_5_writes_it(folder: Path, lowercase: bool) -> None:
    """In one file, with no list of tokens beside it."""
    ids = {token: index for index, token in enumerate(WORDS)}
    tokenizer = transformers.BertTokenizer(vocab=ids, do_lower_case=lowercase)
    (folder / "vocab.txt").unlink()
    tokenizer.save_pretrained(folder)
    assert not (folder / "vocab.txt").exists()
    check_tokens(folder)
    assert open_folder(folder).vocab.split("\n") == WORDS
    assert open_folder(folder).lowercase == lowercase
    (folder / "tokenizer_config.json").unlink()
    alone = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    check_tokens(folder, alone)
    assert open_folder(folder).lowercase == lowercase


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_tokenizer_that_is_written(folder: Path, lowercase: bool) -> None:
    change(folder, "tokenizer_config.json", do_lower_case=lowercase, model_max_length=512)
    teacher = open_folder(folder)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    teacher.write_tokenizer(folder)
    assert (folder / "vocab.txt").read_bytes() == ("\n".join(WORDS) + "\n").encode()
    again = open_folder(folder)
    assert again == teacher
    check_tokens(folder)
    theirs = transformers.BertTokenizer.from_pretrained(folder, local_files_only=True)
    assert theirs.model_max_length == 16


def test_lower_case_of_the_configuration(folder: Path) -> None:
    """It comes first, because the reader of what training writes believes it first."""
    change(folder, do_lower_case=False)
    change(folder, "tokenizer_config.json", do_lower_case=True, strip_accents=False)
    assert not open_folder(folder).lowercase
    change(folder, do_lower_case=None)
    change(folder, "tokenizer_config.json", do_lower_case=None, strip_accents=None)
    assert open_folder(folder).lowercase


def test_fewer_tokens_than_embeddings(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS[:8]))
    assert open_folder(folder).vocab == "\n".join(WORDS[:8])


# ---- what is refused

CONFIGS = [
    ({"model_type": "roberta"}, "config model_type: found 'roberta', expected 'bert'"),
    ({"is_decoder": True}, "config is_decoder: found True, expected False"),
    ({"add_cross_attention": True}, "config add_cross_attention: found True, expected False"),
    (
        {"position_embedding_type": "relative_key"},
        "config position_embedding_type: found 'relative_key', expected 'absolute'",
    ),
    ({"hidden_size": 0}, "config hidden_size: found 0, expected a positive integer"),
    ({"vocab_size": "15"}, "config vocab_size: found '15', expected a positive integer"),
    ({"num_hidden_layers": True}, "config num_hidden_layers: found True, expected a positive"),
    ({"type_vocab_size": None}, "config type_vocab_size: found None, expected a positive"),
    ({"max_position_embeddings": 1.5}, "config max_position_embeddings: found 1.5, expected"),
    (
        {"num_attention_heads": 3},
        "config num_attention_heads: found 3, expected a divisor of 8",
    ),
    ({"weight_bits": 1}, "config weight_bits: found 1, expected 32"),
    ({"input_bits": 4}, "config input_bits: found 4, expected 32"),
    ({"hidden_act": "gelu_new"}, "config hidden_act: found 'gelu_new', expected 'relu' or"),
    ({"vocab_size": 15}, "vocab: found 16 tokens, expected at most vocab_size 15"),
    ({"do_lower_case": "no"}, "do_lower_case: found 'no', expected true or false"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_wrong_configurations(folder: Path, changes: dict[str, Any], message: str) -> None:
    change(folder, **changes)
    with pytest.raises(ConversionError) as error:
        open_folder(folder)
    assert str(error.value).startswith(f"{folder}: {message}")


TOKENIZERS = [
    ({"do_lower_case": 1}, "do_lower_case: found 1, expected true or false"),
    ({"strip_accents": False}, "tokenizer strip_accents: found False, expected True or nothing"),
    (
        {"do_lower_case": False, "strip_accents": True},
        "tokenizer strip_accents: found True, expected False or nothing where do_lower_case is",
    ),
    (
        {"tokenize_chinese_chars": False},
        "tokenizer tokenize_chinese_chars: found False, expected True or nothing",
    ),
]


@pytest.mark.parametrize(("changes", "message"), TOKENIZERS)
def test_wrong_tokenizers(folder: Path, changes: dict[str, Any], message: str) -> None:
    change(folder, "tokenizer_config.json", **changes)
    with pytest.raises(ConversionError) as error:
        open_folder(folder)
    assert str(error.value).startswith(f"{folder}: {message}")


NORMALIZER = {"type": "BertNormalizer", "lowercase": True}
WHOLE = [
    ({}, "tokenizer.json: found no vocabulary"),
    ({"model": {"type": "BPE", "vocab": ["a"]}}, "tokenizer.json: found no vocabulary"),
    ({"model": {"vocab": {"a": 0}}}, "tokenizer.json normalizer: found None, expected a Bert"),
    (
        {"model": {"vocab": {"a": 0}}, "normalizer": {"type": "NFC"}},
        "tokenizer.json normalizer: found {'type': 'NFC'}, expected a BertNormalizer",
    ),
    (
        {"model": {"vocab": {"a": 0, "b": 2}}, "normalizer": NORMALIZER},
        "vocab: found a mapping whose ids are not 0 .. n-1",
    ),
    (
        {"model": {"vocab": {"a": 0}}, "normalizer": NORMALIZER},
        "vocab: missing [PAD], [UNK], [CLS], [SEP]",
    ),
]


@pytest.mark.parametrize(("content", "message"), WHOLE)
def test_wrong_tokenizers_in_one_file(folder: Path, content: Any, message: str) -> None:
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError) as error:
        open_folder(folder)
    assert str(error.value).startswith(f"{folder}: {message}")


# What else can be wrong with these files, the tests of checkpoints say: one reader reads them.
FILES = [
    ("config.json", None, "config: cannot read 'config.json': "),
    ("config.json", b"{", "config.json: not JSON: "),
    ("vocab.txt", b"\xff", "vocab: cannot read 'vocab.txt': 'utf-8' codec"),
    ("vocab.txt", b"", "vocab: found '' as token 0, expected a word"),
    ("vocab.txt", b"a\nb\n", "vocab: missing [PAD], [UNK], [CLS], [SEP]"),
    ("tokenizer_config.json", b"x", "tokenizer_config.json: not JSON: "),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_damaged_files(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ConversionError) as error:
        open_folder(folder)
    assert str(error.value).startswith(f"{folder}: {message}")


def test_no_folder(folder: Path) -> None:
    for path in (folder / "missing", folder / "config.json"):
        with pytest.raises(InputError, match=r": found no folder, expected one with the files"):
            open_folder(path)


class Harmful:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("code of a checkpoint ran",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pytorch_model.bin", None),
        ("pytorch_model.bin", b""),
        ("pytorch_model.bin", b"abc"),
        ("pytorch_model.bin", pickle.dumps(Harmful())),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x08" + bytes(15)),
        ("model.safetensors.index.json", b"{}"),
    ],
)
def test_damaged_weights(
    folder: Path, name: str, content: bytes | None, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    for head in (True, False):
        with pytest.raises(ConversionError) as error:
            read_bert(open_folder(folder), outputs=3, head=head)
        assert str(error.value).startswith(f"{folder}: found no weights that can be read (")
        assert str(error.value).endswith("), expected those of a BERT")
        assert len(str(error.value)) < 700
    assert capfd.readouterr() == ("", "")


def test_cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConversionError, match="found no weights that can be read"):
        read_bert(open_folder(folder), outputs=3, head=True)
    with pytest.raises(ConversionError, match="found no weights that can be read"):
        has_head(open_folder(folder))


def test_settings_that_transformers_refuses(folder: Path) -> None:
    change(folder, layer_norm_eps="small")
    with pytest.raises(ConversionError, match=r"found no weights .*layer_norm_eps"):
        read_bert(open_folder(folder), outputs=3, head=True)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_another_number_of_labels(folder: Path, outputs: int) -> None:
    with pytest.raises(ConversionError) as error:
        read_bert(open_folder(folder), outputs=outputs, head=True)
    message = f"{folder}: classifier.bias: found shape [3], expected [{outputs}]"
    assert str(error.value) == message


@pytest.mark.parametrize("head", [True, False])
def test_weights_of_other_shapes(folder: Path, head: bool) -> None:
    change(folder, intermediate_size=13)
    message = r"layer\.0\.intermediate\.dense\.bias: found shape \[12\], expected \[13\]"
    with pytest.raises(ConversionError, match=message):
        read_bert(open_folder(folder), outputs=3, head=head)


def test_missing_weights(original: Any, folder: Path) -> None:
    change(folder, num_hidden_layers=2)
    with pytest.raises(ConversionError) as error:
        read_bert(open_folder(folder), outputs=3, head=True)
    message = str(error.value)
    prefix = "bert.encoder.layer.1.attention.output"
    names = ", ".join(f"{prefix}.{e}" for e in ("LayerNorm.bias", "LayerNorm.weight", "dense.bias"))
    assert message == (
        f"{folder}: found no weights {names} (16 missing), expected those of a BERT classifier"
    )
    save(folder, {f"module.{key}": value for key, value in original.state_dict().items()})
    with pytest.raises(ConversionError, match="missing"):
        read_bert(open_folder(folder), outputs=3, head=False)
