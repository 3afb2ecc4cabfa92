"""What the documentation says is so: code runs, commands work, files and figures exist."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from children import environment

import bitinfer
from bitinfer import cli

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE_NAME = re.compile(r"`((?:bitinfer|benchmarks|cmake|csrc|docs|examples|tests|\.ci)/[\w./-]+)`")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name)


def blocks(document: Path, *languages: str) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks of some languages."""
    return [found for found in FENCE.findall(document.read_text("utf-8")) if found[0] in languages]


# ---- the files that readers have


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything the pages speak of: checkpoints, packed files, texts."""
    pytest.importorskip("torch", reason="checkpoints are read with PyTorch")
    import seeded
    import torch

    folder = tmp_path_factory.mktemp("reader")
    words = {"hidden": 384, "heads": 12, "layers": 1, "vocab": 2500, "positions": 64}
    seeded.write(folder / "bit-sst2", seeded.Spec(**words))
    seeded.write(folder / "my-checkpoint", seeded.TINY)
    three = seeded.Spec(labels=3)
    torch.save(seeded.tensors(seeded.state_dict(three)), folder / "mnli.pt")
    (folder / "config.json").write_text(json.dumps(seeded.config(three)))
    (folder / "vocab.txt").write_text("\n".join(seeded.vocabulary(three)) + "\n")
    bitinfer.convert(folder / "my-checkpoint", folder / "model.safetensors", verify=False)
    (folder / "reviews.txt").write_text("a warm and funny film\na dull one\nfine\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\na warm and funny film\t1\na dull one\t0\n")
    run_script("examples/tiny/make.py", str(folder / "toy"))
    (folder / "dev.jsonl").write_text('{"review": "a warm and funny film", "positive": 1}\n')
    return folder


@pytest.fixture
def desk(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of those files to work in."""
    folder = tmp_path / "desk"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    return folder


def run_script(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / script), *arguments], env=environment(), check=True)


def shortened(code: str) -> str:
    """Code or a command that trains, with so few steps that it can be run here."""
    if not re.search(r"\b(finetune|distill)\b", code):
        return code
    for package in ("transformers", "matplotlib"):
        pytest.importorskip(package, reason="training needs the extra train")
    return re.sub(r"(--steps |steps=)\d+", r"\g<1>6", code)


# ---- code


class Checker(doctest.OutputChecker):
    """An example without output shows how to call; what it prints is not part of it."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


def run_examples(test: doctest.DocTest) -> None:
    report = io.StringIO()
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=doctest.ELLIPSIS)
    runner.run(test, out=report.write, clear_globs=False)
    assert runner.failures == 0, report.getvalue()


@each_document
def test_python_blocks(document: Path, desk: Path) -> None:
    """Blocks of a page share their names, from top to bottom."""
    names: dict[str, Any] = {}
    for number, (language, code) in enumerate(blocks(document, "python", "pycon")):
        where = f"{document.name}, block {number}"
        if language == "python":
            exec(compile(shortened(code), where, "exec"), names)
        else:
            examples = doctest.DocTestParser().get_doctest(code, names, where, where, 0)
            run_examples(examples)
            names.update(examples.globs)


def modules() -> list[str]:
    found = pkgutil.walk_packages(bitinfer.__path__, "bitinfer.")
    return ["bitinfer", *(m.name for m in found if m.name != "bitinfer.__main__")]


@pytest.mark.parametrize("module", modules())
def test_docstrings(module: str, desk: Path) -> None:
    """Examples may use a model, as in the docstrings that show where it comes from."""
    from bitinfer.families import read_checkpoint

    if module == "bitinfer.conversion.export":
        bitinfer.convert("bit-sst2", "sst2.safetensors", verify=False)
    names = {"model": bitinfer.load("sst2"), "read_checkpoint": read_checkpoint}
    finder = doctest.DocTestFinder()
    for test in finder.find(importlib.import_module(module), extraglobs=names):
        run_examples(test)


# ---- commands


@each_document
def test_shell_blocks(document: Path, desk: Path) -> None:
    """Lines run, in the order of the page, but pip; ``make`` has the targets named."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for _, block in blocks(document, "sh"):
        for line in block.splitlines():
            words = shlex.split(shortened(line), comments=True)
            if words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
            elif words[:1] == ["bitinfer"] and not {"|", ">"} & {*words}:
                with contextlib.redirect_stdout(io.StringIO()):
                    assert cli.main(words[1:]) == 0, line
            elif words[:1] == ["python"]:
                run_script(*words[1:])
            elif "bitinfer" in words:
                run_in_shell(line)
            else:
                assert not words or words[:2] == ["pip", "install"], line


def run_in_shell(line: str) -> None:
    function = 'bitinfer() { "$PYTHON" -m bitinfer "$@"; }\nset -euo pipefail\n'
    done = subprocess.run(
        ["bash", "-c", function + line],
        env=environment(PYTHON=sys.executable),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_readme_names_every_command() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        cli.main(["--help"])
    listed = text.getvalue().partition("COMMAND\n")[2].partition("\n\n")[0]
    commands = re.findall(r"^ {4}(\S+) ", listed, re.MULTILINE)
    assert len(commands) >= 6
    readme = (ROOT / "README.md").read_text("utf-8")
    for command in commands:
        assert f"`bitinfer {command} " in readme or f"`bitinfer {command}`" in readme


def test_toy_is_trained_as_its_script_does() -> None:
    """Of the commands above only fewer steps were run: with all of them the toy learns."""

    def settings(path: str) -> list[str]:
        return re.findall(r"--steps \d+ --learning-rate \S+", (ROOT / path).read_text("utf-8"))

    assert len(settings("examples/tiny/train.sh")) == 2
    for page in ("README.md", "docs/training.md"):
        assert settings(page) == settings("examples/tiny/train.sh")


# ---- files and tables


def anchors(document: Path) -> set[str]:
    """The names that headings are given by the sites that show Markdown."""
    text = FENCE.sub("", document.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in HEADING.findall(text)}


@each_document
def test_links(document: Path) -> None:
    for link in LINK.findall(FENCE.sub("", document.read_text("utf-8"))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_document
def test_files_that_are_named_exist(document: Path) -> None:
    for file in FILE_NAME.findall(FENCE.sub("", document.read_text("utf-8"))):
        assert (ROOT / file).exists(), file


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_document
def test_tables_are_those_of_the_saved_results(document: Path, table: ModuleType) -> None:
    """Nobody edits a figure by hand: ``python benchmarks/table.py --rewrite`` mends it."""
    from benchmarks.markdown import BLOCK, rewritten

    results = json.loads(table.RESULTS.read_text("utf-8")) | table.saved_elsewhere()
    text = document.read_text("utf-8")
    assert text.count("<!-- table:") == len(BLOCK.findall(text)) == text.count("<!-- /table")
    assert {block[1] for block in BLOCK.findall(text)} <= set(table.TABLES)
    assert rewritten(text, results, table.TABLES) == text


def test_format_page_names_all_metadata() -> None:
    from bitinfer.runtime.origin import find_model, read_model

    text = (ROOT / "docs" / "format.md").read_text("utf-8")
    metadata, tensors = read_model(find_model("sst2"))
    nested = [*metadata["config"], *metadata["tokenizer"], *metadata["source"]]
    for key in (*metadata, *nested):
        assert f"`{key}`" in text, key
    kinds = {tensor.rpartition(".")[2] for tensor in tensors}
    for kind in kinds:
        assert re.search(rf"\.{kind}`", text), kind
