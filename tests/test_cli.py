"""The command line: what it prints, and the exit codes it promises."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitinfer
from bitinfer.cli import main
from bitinfer.data.evaluation import evaluate
from bitinfer.data.tables import LabelledTexts
from bitinfer.errors import InputError, UnsupportedError

Packed = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
# Buffered output fails late: when it is flushed, and once more at exit.
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
COMMANDS = ["convert", "distill", "finetune", "predict", "info", "verify", "bench", "doctor"]
COMMANDS += ["export-float"]


@pytest.fixture
def model(packed: Packed) -> str:
    return str(packed(labels=3))


def start(
    *arguments: str, variables: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, **ENVIRONMENT, **(variables or {})}
    command = [sys.executable, "-m", "bitinfer", *arguments]
    return subprocess.Popen(command, env=environment, **{**streams, **options})


def run(*arguments: str, text: bytes = b"", **options: Any) -> tuple[int, str, str]:
    with start(*arguments, **{"stdin": subprocess.PIPE, **options}) as process:
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
        (["predict", "MODEL", "a", "--top-k", "-1"], 2, "found -1, expected at least 0"),
        (["predict", "MODEL", "a", "--top-k", "4"], 2, "top_k: found 4, expected 1..3"),
        (["predict", "MODEL", "a", "--batch-size", "0"], 2, "found 0, expected at least 1"),
        (["predict", "MODEL", "a", "--max-length", "99"], 2, "max_length: found 99"),
        (["predict", "MODEL", "a", "--input", "b"], 2, "--input"),
        (["predict", "MODEL", "--input", "no-such-file"], 2, "no-such-file"),
        (["predict", "MODEL", "--input", ""], 2, "No such file"),
        (["predict", "MODEL", "a", "--input", ""], 2, "--input: found ''"),
        (["predict", "MODEL", "a|b", "--pair-sep", ""], 2, "at least one character"),
        (["predict", "MODEL", "a", "--isa", "sse9"], 3, "sse9"),
        (["predict", "MODEL", "a", "--num-threads", "1025"], 2, "from 1 to 1024"),
        (["predict", os.devnull, "a"], 2, "found a pipe or device"),
        (["predict", "MODEL", "a", "--format", "xml"], 2, "xml"),
        (["predict", "MODEL", "a", "--top-k", "1", "b", "--fast"], 2, "arguments: --fast"),
        (["info", "MODEL", "a"], 2, "arguments: a"),
        (["predict", "MODEL", "\udcff"], 2, "lone surrogate"),
        (["predict", "MODEL", *["a"] * 40, "\udcff"], 2, "text 40: lone surrogate"),
        (["info", __file__], 3, "not a packed model file"),
        (["convert", "no-such-folder", "out"], 3, "no-such-folder"),
        (["bench", "MODEL", "-l", "41"], 2, "length: found 41, expected at most 40"),
        (["bench", "MODEL", "-b", "1,x"], 2, "an integer of at least 1, or several with commas"),
        (["bench", "MODEL", "-l", "8", "--isa", "portable,sse9"], 3, "sse9"),
        (["bench", "MODEL", "-l", "8", "-t", "1,1025"], 2, "from 1 to 1024"),
        (["bench", "no-such-model"], 2, "no such file"),
        (["export-float", "no-such-model", "out"], 2, "no such file"),
        (["verify", "MODEL", "--at-least", "0.5"], 2, "--at-least: found 0.5 without --data"),
        (["verify", "MODEL", "--text-column", "x"], 2, "--text: found 'x' without --data"),
        (["verify", "MODEL", "--data", "x", "--at-least", "nan"], 2, "expected a finite number"),
        (["verify", "MODEL", "--data", "x", "--at-least", "x"], 2, "expected a number"),
        (["verify", "MODEL", "--data", "no-such-file"], 2, "no-such-file"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, message: str, model: str, capsys: Capture
) -> None:
    assert main([model if each == "MODEL" else each for each in arguments]) == code
    output, errors = capsys.readouterr()
    assert output == ""
    assert message in errors.splitlines()[-1]
    if not errors.startswith("usage:"):
        assert len(errors.splitlines()) == 1


def test_mistakes_show_the_usage_of_the_command(model: str, capsys: Capture) -> None:
    assert main(["predict", model, "--text", "a"]) == 2
    assert capsys.readouterr().err.startswith("usage: bitinfer predict ")


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
    for arguments in (
        ["--top-k", "1", "--", "a", "-b"],
        ["a", "--top-k", "1", "--", "-b"],
        ["--top-k", "1", "a", "--", "-b"],
    ):
        assert (main(["predict", model, *arguments]), capsys.readouterr().out) == expected
    many = ["a", "--top-k", "1", "b", "--top-k", "1", "c d", "--", "-b", "--top-k"]
    assert main(["predict", model, *many]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["a", "b", "c d", "-b", "--top-k"]


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
    assert main(["predict", model, "--pair-sep=--", "a--b", "--format", "tsv"]) == 0
    assert capsys.readouterr().out.endswith("\ta\tb\n")


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


def test_answers_do_not_wait_for_the_end_of_the_input(model: str) -> None:
    with start("predict", model, "--batch-size", "1", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for text in (b"a b c\n", b"z\n"):
            process.stdin.write(text)
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"  " + text)
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_predict_lines_that_are_not_utf8(model: str) -> None:
    code, output, errors = run("predict", model, "--batch-size", "1", text=b"a\n\xff\xfe\n")
    assert code == 2
    assert len(output.splitlines()) == 1
    assert "line 2: not UTF-8" in errors


def test_streams_are_utf8(model: str, tmp_path: Path) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    code, output, errors = run("predict", model, "é", variables=ascii_only)
    assert (code, errors) == (0, "")
    assert output.endswith("  é\n")
    code, output, _ = run(
        "predict", model, "--format", "jsonl", text=b"\xef\xbb\xbfa\n\xef\xbb\xbfa"
    )
    assert [json.loads(line)["text"] for line in output.splitlines()] == ["a", "\ufeffa"]
    odd = os.fsencode(tmp_path / "m") + b"\xff"
    Path(os.fsdecode(odd)).write_bytes(Path(model).read_bytes())
    with start("info", os.fsdecode(odd)) as process:
        assert process.communicate(timeout=60)[0].startswith(b"model: " + odd)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("closing", "code", "message"),
    [(">&-", 0, ""), ("<&-", 2, "standard input is closed"), (">/dev/full", 2, "No space left")],
)
def test_streams_that_cannot_be_used(model: str, closing: str, code: int, message: str) -> None:
    text = "" if closing == "<&-" else "a"
    command = f'"{sys.executable}" -m bitinfer predict "{model}" {text} {closing}'
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == (code > 0)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_a_terminal_is_told_what_is_read(model: str) -> None:
    master, slave = os.openpty()
    try:
        with start("predict", model, stdin=slave) as process:
            assert process.stderr is not None
            assert b"reading texts" in process.stderr.readline()
            os.write(master, b"a b c\n\x04")
            output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, b"")
        assert output.endswith(b"  a b c\n")
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are different there")
@pytest.mark.usefixtures("children_take_ctrl_c")
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
    reading, writing = os.pipe()
    os.close(reading)
    with start("predict", "--help", stdout=writing) as process:
        os.close(writing)
        assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 141


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
    assert "family: bit" in text
    assert "bits: 1-1-1" in text
    assert "  attention.probs: unsigned-1" in text
    assert f"{expected['bytes']['total']:,}" in text


def test_verify(packed: Packed, model: str, capsys: Capture) -> None:
    folder = str(packed(labels=3).with_suffix(""))
    for arguments in ([model], [model, "--checkpoint", folder], [folder]):
        assert main(["verify", *arguments]) == 0
        assert capsys.readouterr().out.endswith("passed\n")


def test_verify_finds_a_difference(
    packed: Packed, model: str, tmp_path: Path, capsys: Capture
) -> None:
    from bitinfer.runtime.format import read_packed, write_packed

    metadata, tensors = read_packed(model)
    rises = tensors["layer.0.query.rises"]
    tensors["layer.0.query.rises"] = np.minimum(rises + np.int16(2), metadata["config"]["hidden"])
    write_packed(tmp_path / "m", tensors, metadata)
    assert main(["verify", str(tmp_path / "m")]) == 1
    assert capsys.readouterr().out.endswith("FAILED\n")
    for changes, message in (
        ({"seed": 5}, "not the file"),
        ({"layers": 1}, "sizes and kinds"),
        ({"bits": "1-1-2"}, "sizes and kinds"),
    ):
        other = packed(labels=3, **changes).with_suffix("")
        assert main(["verify", model, "--checkpoint", str(other)]) == 1
        output = capsys.readouterr().out
        assert message in output
        assert output.endswith("FAILED\n")


def test_verify_a_lone_checkpoint(packed: Packed, model: str, tmp_path: Path) -> None:
    folder = packed(labels=3).with_suffix("")
    weights = tmp_path / "weights.pt"
    shutil.copy(folder / "pytorch_model.bin", weights)
    arguments = ["verify", model, "--checkpoint", str(weights)]
    assert main(arguments) == 3
    files = ["--config", str(folder / "config.json"), "--vocab", str(folder / "vocab.txt")]
    assert main([*arguments, *files]) == 0


def test_verify_a_file_that_lacks_a_tensor(model: str, tmp_path: Path, capsys: Capture) -> None:
    from bitinfer.runtime.format import read_packed, write_packed

    metadata, tensors = read_packed(model)
    del tensors["layer.1.query.bits"]
    write_packed(tmp_path / "m", tensors, metadata)
    assert main(["verify", str(tmp_path / "m")]) == 3
    assert "layer.1.query.bits" in capsys.readouterr().err


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
    for arguments in (["--text", "1", "--label", "2"], ["--text-column=1", "--label-column=2"]):
        assert main(["verify", model, "--data", str(table), *arguments]) == 0
        assert "3 of 4" in capsys.readouterr().out


def test_verify_forms_of_data(model: str, tmp_path: Path, capsys: Capture) -> None:
    label = bitinfer.load(model).predict("a, b").label
    contents = {
        "dev.csv": f'text,label\n"a, b",{label}\n',
        "dev.jsonl": json.dumps({"text": "a, b", "label": int(label or 0)}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        assert main(["verify", model, "--no-parity", "--data", str(tmp_path / name)]) == 0
        assert "accuracy 100.00% (1 of 1 texts)" in capsys.readouterr().out
    (tmp_path / "dev.csv").write_text("text,label\na, b,0\n")
    assert main(["verify", model, "--no-parity", "--data", str(tmp_path / "dev.csv")]) == 2
    assert "dev.csv, line 2: found 3 columns, expected 2" in capsys.readouterr().err


def test_verify_data_alone(model: str, tmp_path: Path, capsys: Capture) -> None:
    label = bitinfer.load(model).predict("a b c").label
    path = tmp_path / "dev.tsv"
    path.write_text(f"sentence\tlabel\na b c\t{label}\n")
    arguments = ["verify", model, "--no-parity", "--data", str(path)]
    code = (
        "import sys; sys.modules['torch'] = None\n"  # as if it were not installed
        f"from bitinfer.cli import main; sys.exit(main({arguments!r}))"
    )
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"accuracy 100.00%" in done.stdout
    assert b"parity" not in done.stdout
    assert main(["verify", model, "--no-parity"]) == 2
    assert "--no-parity: found without --data" in capsys.readouterr().err
    assert main([*arguments, "--checkpoint", str(tmp_path)]) == 2
    assert "--no-parity: found beside --checkpoint" in capsys.readouterr().err


def test_evaluate(packed: Packed, model: str) -> None:
    classifier = bitinfer.load(model)
    for label in ("x", "3", "-1", "²", "9" * 5000):
        # The text is not allowed either: labels are looked at first.
        bad = LabelledTexts([("\ud800", None)] * 2, ["0", label])
        found = f"row 1: found label '{label[:12]}.*', expected one of"
        with pytest.raises(InputError, match=found):
            evaluate(classifier, bad)
    with pytest.raises(InputError, match="found no rows"):
        evaluate(classifier, LabelledTexts([], []))
    with pytest.raises(UnsupportedError, match="evaluate: this model has a span head"):
        evaluate(bitinfer.load(packed(head="span")), LabelledTexts([("a", None)], ["0"]))
    index = classifier.predict("a").index
    assert index is not None
    names = classifier._metadata["labels"]
    names[:] = "xyz"
    for label, correct in ((names[index], 1), (str(index), 1), (names[index - 1], 0)):
        assert evaluate(classifier, LabelledTexts([("a", None)], [label])).value == correct
    names[index] = other = str((index + 1) % 3)  # a name wins over an index
    assert evaluate(classifier, LabelledTexts([("a", None)], [other])).value == 1
    regression = bitinfer.load(packed(labels=1))
    texts = [("a", None), ("b c", None), ("d", "e"), ("f g h", None)]
    values = regression.logits(texts)
    result = evaluate(regression, LabelledTexts(texts, [str(3 * v + 1) for v in values]))
    assert result.metric == "pearson"
    assert result.value == pytest.approx(1)
    assert str(result) == "pearson 1.0000 (4 texts)"
    assert math.isnan(evaluate(regression, LabelledTexts(texts, ["1"] * 4)).value)
    for label in ("x", "nan", "inf"):
        with pytest.raises(InputError, match=f"row 0: found label '{label}', expected a number"):
            evaluate(regression, LabelledTexts([("a", None)], [label]))


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


def test_bench_profile(model: str, capsys: Capture) -> None:
    arguments = ["bench", model, "-b", "2", "-l", "8", "-t", "1,2", "-r", "2", "--profile"]
    assert main([*arguments, "-o", "json"]) == 0
    for result in json.loads(capsys.readouterr().out)["results"]:
        stages = result["stages"]
        assert {"embedding", "projections", "attention", "normalize", "other"} <= set(stages)
        assert all(seconds >= 0 for seconds in stages.values())
        assert stages["attention"] > 0
        known = sum(stages.values()) - stages["other"]
        assert known <= result["threads"] * sum(result["seconds"])
        shares = [value for name, value in result.items() if name.endswith(" %")]
        assert sum(shares) == pytest.approx(100, abs=1)
    assert main(arguments) == 0
    assert "attention output %" in capsys.readouterr().out


def test_doctor(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bitinfer"]["version"] == bitinfer.__version__
    assert list(report["self_test"]) == report["available_isas"]
    assert main(["doctor"]) == 0
    assert "cpu_features:" in capsys.readouterr().out
    for name, value in (("BITINFER_ISA", "sse9"), ("BITINFER_NUM_THREADS", "many")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert main(["doctor"]) == 3
        output = capsys.readouterr().out
        assert f": error: {name}='{value}'" in output
        assert "portable: ok" in output


def test_doctor_finds_wrong_kernels(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitinfer import ops
    from bitinfer.runtime.origin import builtin_names

    def wrong_products(a: Any, b: Any, *, isa: str, num_threads: int) -> Any:
        return ops.bgemm(a, b) + (isa == "portable")

    def wrong_logits(model: bitinfer.BitModel, text: str) -> np.ndarray:
        return np.array([model.info()["isa"] == "portable"])

    with monkeypatch.context() as patch:
        patch.setattr("bitinfer.diagnostics.bgemm", wrong_products)
        assert main(["doctor"]) == 1
    assert "portable: wrong: products\n" in capsys.readouterr().out
    if len(bitinfer.available_isas()) > 1:
        monkeypatch.setattr(bitinfer.BitModel, "logits", wrong_logits)
        assert main(["doctor"]) == 1
        models = ", ".join(f"model {name}" for name in builtin_names())
        assert f"portable: wrong: {models}\n" in capsys.readouterr().out


def test_show_config(capsys: Capture) -> None:
    bitinfer.show_config()
    assert "available_isas: " in capsys.readouterr().out


def test_installed_command() -> None:
    command = Path(sysconfig.get_path("scripts")) / "bitinfer"
    if not command.exists():
        pytest.skip("the package is not installed")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"bitinfer {bitinfer.__version__}\n"
