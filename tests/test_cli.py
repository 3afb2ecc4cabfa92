"""The command line: what it prints, and the exit codes it promises."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitinfer
from bitinfer.cli import main
from bitinfer.errors import InputError
from bitinfer.evaluation import LabelledTexts, evaluate, read_table

Packed = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
COMMANDS = ["convert", "predict", "info", "verify", "bench", "doctor", "export-float"]


@pytest.fixture
def model(packed: Packed) -> str:
    return str(packed(labels=3))


def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bitinfer", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )


def run(*arguments: str, text: bytes = b"") -> tuple[int, str, str]:
    with start(*arguments, stdin=subprocess.PIPE) as process:
        output, errors = process.communicate(text, timeout=120)
    return process.returncode, output.decode(), errors.decode()


# ---- help and errors


def test_help_teaches(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert "exit codes" in overview
    assert "BITINFER_ISA" in overview
    for command in COMMANDS:
        assert command in overview
        assert main([command, "--help"]) == 0
        assert f"  bitinfer {command}" in capsys.readouterr().out


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bitinfer {bitinfer.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "COMMAND"),
        (["fly"], 2, "fly"),
        (["predict"], 2, "MODEL"),
        (["predict", "no-such-model", "a"], 2, "'no-such-model': no such file"),
        (["predict", "MODEL", "a", "--top-k", "-1"], 2, "an integer of at least 0"),
        (["predict", "MODEL", "a", "--top-k", "4"], 2, "top_k: found 4, expected 1..3"),
        (["predict", "MODEL", "a", "--batch-size", "0"], 2, "an integer of at least 1"),
        (["predict", "MODEL", "a", "--max-length", "99"], 2, "max_length: found 99"),
        (["predict", "MODEL", "a", "--input", "b"], 2, "--input"),
        (["predict", "MODEL", "--input", "no-such-file"], 2, "no-such-file"),
        (["predict", "MODEL", "a", "--isa", "sse9"], 3, "sse9"),
        (["predict", "MODEL", "a", "--format", "xml"], 2, "xml"),
        (["predict", "MODEL", "a", "--top-k", "1", "b", "--fast"], 2, "arguments: --fast"),
        (["info", "MODEL", "a"], 2, "arguments: a"),
        (["predict", "MODEL", "\udcff"], 2, "lone surrogate"),
        (["info", __file__], 3, "not a packed model file"),
        (["convert", "no-such-folder", "out"], 3, "no-such-folder"),
        (["bench", "MODEL", "-l", "41"], 2, "length: found 41, expected at most 40"),
        (["bench", "MODEL", "-b", "1,x"], 2, "an integer of at least 1"),
        (["verify", "MODEL", "--data", "no-such-file"], 2, "no-such-file"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, message: str, model: str, capsys: Capture
) -> None:
    assert main([model if each == "MODEL" else each for each in arguments]) == code
    errors = capsys.readouterr().err
    assert message in errors.splitlines()[-1]
    if not errors.startswith("usage:"):
        assert len(errors.splitlines()) == 1


# ---- predict


def test_predict_arguments(model: str, capsys: Capture) -> None:
    assert main(["predict", model, "a b c", "z"]) == 0
    expected = bitinfer.load(model).predict(["a b c", "z"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{best.label} {best.score:.4f}  {text}"
        for best, text in zip(expected, ["a b c", "z"], strict=True)
    ]


def test_predict_texts_anywhere(model: str, capsys: Capture) -> None:
    expected = main(["predict", model, "a", "--", "-b"]), capsys.readouterr().out
    assert expected[0] == 0
    assert len(expected[1].splitlines()) == 2
    for arguments in (["--top-k", "1", "--", "a", "-b"], ["a", "--top-k", "1", "--", "-b"]):
        assert (main(["predict", model, *arguments]), capsys.readouterr().out) == expected


def test_predict_formats(model: str, capsys: Capture) -> None:
    (best,) = bitinfer.load(model).predict(["é\tb"])
    assert main(["predict", model, "é\tb", "--format", "tsv"]) == 0
    assert capsys.readouterr().out == f"{best.label}\t{best.score!r}\té b\n"
    assert main(["predict", model, "é\tb", "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out) == {**best.asdict(), "text": "é\tb"}
    ranked = bitinfer.load(model).predict("a", top_k=None)
    assert main(["predict", model, "a", "--format", "jsonl", "--top-k", "0"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "text": "a",
        "predictions": [p.asdict() for p in ranked],
    }
    assert main(["predict", model, "a", "--format", "tsv", "--top-k", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{p.label}\t{p.score!r}\ta" for p in ranked[:2]
    ]


def test_predict_pairs(model: str, capsys: Capture) -> None:
    arguments = ["predict", model, "--pair-sep", "|", "a|b", "c", "--format", "jsonl"]
    assert main(arguments) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = bitinfer.load(model).predict([("a", "b"), "c"])
    assert [each["score"] for each in found] == [p.score for p in expected]
    assert (found[0]["text"], found[0]["text_pair"]) == ("a", "b")
    assert found[1]["text_pair"] is None


def test_predict_regression(packed: Packed, capsys: Capture) -> None:
    path = str(packed(labels=1))
    assert main(["predict", path, "a b", "--format", "tsv"]) == 0
    value = bitinfer.load(path).predict("a b").score
    assert capsys.readouterr().out == f"\t{value!r}\ta b\n"


def test_predict_span_model(packed: Packed, capsys: Capture) -> None:
    assert main(["predict", str(packed(head="span")), "a"]) == 3
    assert "span head" in capsys.readouterr().err


def test_predict_lines(model: str, tmp_path: Path) -> None:
    lines = b"a b c\r\n\n\xc3\xa9 \xf0\x9f\x98\x80\nno end"
    code, output, errors = run("predict", model, "--format", "jsonl", text=lines)
    assert (code, errors) == (0, "")
    found = [json.loads(line) for line in output.splitlines()]
    assert [each["text"] for each in found] == ["a b c", "", "é 😀", "no end"]
    expected = bitinfer.load(model).predict([each["text"] for each in found])
    assert [each["score"] for each in found] == [p.score for p in expected]
    (tmp_path / "in.txt").write_bytes(lines)
    same = run("predict", model, "--format", "jsonl", "--input", str(tmp_path / "in.txt"))
    assert same == (0, output, "")
    assert run("predict", model) == (0, "", "")


def test_predict_lines_that_are_not_utf8(model: str) -> None:
    code, output, errors = run("predict", model, "--batch-size", "1", text=b"a\n\xff\xfe\n")
    assert code == 2
    assert len(output.splitlines()) == 1
    assert "line 2: not UTF-8" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
def test_ctrl_c(model: str) -> None:
    with start("predict", model, "--batch-size", "1", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"a\n" * 100)
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)  # it waits for more lines
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are different there")
def test_broken_pipe_is_quiet(model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"a b c d e f\n" * 20_000)
    with start("predict", model, "--input", str(tmp_path / "in.txt")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == b""


# ---- convert, info, verify, export


def test_convert_and_export(packed: Packed, tmp_path: Path, capsys: Capture) -> None:
    folder = packed(labels=3).with_suffix("")
    target = tmp_path / "m.safetensors"
    arguments = ["convert", str(folder), str(target), "--labels", "x,y,z", "--max-length", "20"]
    assert main([*arguments, "--licence", "CC0-1.0"]) == 0
    assert "0 of" in capsys.readouterr().out  # parity
    converted = bitinfer.load(target)
    assert (converted.labels, converted.max_length) == (["x", "y", "z"], 20)
    assert converted.info()["licence"] == "CC0-1.0"
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--no-verify"]) == 0
    assert main(["export-float", str(target), str(tmp_path / "float")]) == 0
    np.testing.assert_array_equal(
        bitinfer.load(tmp_path / "float").logits("a b"), converted.logits("a b")
    )


def test_info(model: str, capsys: Capture) -> None:
    assert main(["info", model, "--json"]) == 0
    expected = bitinfer.load(model).info()
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == expected["bytes"]
    assert main(["info", model]) == 0
    text = capsys.readouterr().out
    assert "recipe: bit-1-1-1" in text
    assert f"{expected['bytes']['total']:,}" in text


def test_verify(packed: Packed, model: str, capsys: Capture) -> None:
    folder = str(packed(labels=3).with_suffix(""))
    for arguments in ([model], [model, "--checkpoint", folder], [folder]):
        assert main(["verify", *arguments]) == 0
        assert capsys.readouterr().out.endswith("passed\n")


def test_verify_finds_a_difference(packed: Packed, model: str, tmp_path: Path) -> None:
    from bitinfer.format import read_packed, write_packed

    metadata, tensors = read_packed(model)
    tensors["layer.0.query.threshold"] = tensors["layer.0.query.threshold"] + np.int32(2)
    write_packed(tmp_path / "m", tensors, metadata)
    assert main(["verify", str(tmp_path / "m")]) == 1
    other = packed(labels=3, seed=5).with_suffix("")
    assert main(["verify", model, "--checkpoint", str(other)]) == 1


def test_verify_data(model: str, tmp_path: Path, capsys: Capture) -> None:
    texts = ["a b c", "z", "q r s t", "a"]
    labels = [p.label for p in bitinfer.load(model).predict(texts)]
    labels[3] = str((int(labels[3] or 0) + 1) % 3)
    rows = [f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True)]
    table = tmp_path / "dev.tsv"
    table.write_text("sentence\tlabel\n" + "".join(rows))
    assert main(["verify", model, "--data", str(table)]) == 0
    assert "accuracy 75.00% (3 of 4 texts)" in capsys.readouterr().out
    assert main(["verify", model, "--data", str(table), "--at-least", "0.8"]) == 1
    table.write_text("".join(rows))
    arguments = ["--text-column", "1", "--label-column", "2"]
    assert main(["verify", model, "--data", str(table), *arguments]) == 0
    assert "3 of 4" in capsys.readouterr().out


# ---- tables of labelled texts


def table(tmp_path: Path, content: str) -> Path:
    (tmp_path / "t.tsv").write_text(content, encoding="utf-8")
    return tmp_path / "t.tsv"


def test_tables_of_glue(tmp_path: Path) -> None:
    plain = LabelledTexts([("a", None), ("b", None)], ["1", "0"])
    assert read_table(table(tmp_path, "sentence\tlabel\na\t1\nb\t0\n")) == plain
    assert read_table(table(tmp_path, "label\tsentence\r\n1\ta\r\n\r\n0\tb")) == plain
    pairs = LabelledTexts([("a", "b")], ["2"])
    for names in ("sentence1\tsentence2", "premise\thypothesis", "question\tsentence"):
        assert read_table(table(tmp_path, f"{names}\tlabel\na\tb\t2\n")) == pairs
    named = table(tmp_path, "x\ty\tz\n2\ta\tb\n")
    assert read_table(named, text="y", pair="z", label="x") == pairs
    numbered = table(tmp_path, "2\ta\tb\n")
    assert read_table(numbered, text="2", pair="3", label="1") == pairs


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "expected 'sentence'"),
        ("sentence\tlabel\n", {}, "found no rows"),
        ("x\tlabel\na\t1\n", {}, "found columns x, label; expected 'sentence'"),
        ("sentence\tx\na\t1\n", {}, "expected 'label'"),
        ("sentence\tlabel\na\n", {}, "line 2: found 1 columns, expected at least 2"),
        ("a\t1\n", {"text": "3"}, "expected '3'"),
    ],
)
def test_bad_tables(tmp_path: Path, content: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_table(table(tmp_path, content), **options)


def test_evaluate(packed: Packed, model: str) -> None:
    classifier = bitinfer.load(model)
    with pytest.raises(InputError, match="row 1: found label 'x', expected one of"):
        evaluate(classifier, LabelledTexts([("a", None)] * 2, ["0", "x"]))
    regression = bitinfer.load(packed(labels=1))
    texts = [("a", None), ("b c", None), ("d", "e"), ("f g h", None)]
    values = regression.logits(texts)
    result = evaluate(regression, LabelledTexts(texts, [str(3 * v + 1) for v in values]))
    assert result.metric == "pearson"
    assert result.value == pytest.approx(1)
    with pytest.raises(InputError, match="row 0: found label 'x', expected a number"):
        evaluate(regression, LabelledTexts([("a", None)], ["x"]))


# ---- bench and doctor


def test_bench(model: str, capsys: Capture) -> None:
    isas = bitinfer.available_isas()
    arguments = ["bench", model, "-b", "1,2", "-l", "4,8", "-t", "1", "-r", "3"]
    assert main([*arguments, "--isa", ",".join(isas), "-o", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "not included" in report["excluded"]
    settings = [(r["isa"], r["batch"], r["length"]) for r in report["results"]]
    assert settings == [(isa, b, n) for isa in isas for b in (1, 2) for n in (4, 8)]
    assert all(len(r["seconds"]) == 3 for r in report["results"])
    assert main([*arguments, "-o", "csv"]) == 0
    text = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO("".join(text.splitlines(keepends=True)[1:]))))
    assert [row["batch"] for row in rows] == ["1", "1", "2", "2"]
    assert all(float(row["mean_ms"]) > 0 for row in rows)
    assert main(arguments) == 0
    markdown = capsys.readouterr().out
    assert "tokenizing and warming up are not included" in markdown
    assert len({line.count("|") for line in markdown.splitlines()[2:]}) == 1


def test_doctor(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bitinfer"]["version"] == bitinfer.__version__
    assert list(report["self_test"]) == report["available_isas"]
    assert main(["doctor"]) == 0
    assert "cpu_features:" in capsys.readouterr().out
    monkeypatch.setenv("BITINFER_ISA", "sse9")
    assert main(["doctor"]) == 3
    assert "sse9" in capsys.readouterr().out


def test_show_config(capsys: Capture) -> None:
    bitinfer.show_config()
    assert "available_isas: " in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bitinfer") is None, reason="the package is not installed")
def test_installed_command() -> None:
    done = subprocess.run(["bitinfer", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bitinfer ")
