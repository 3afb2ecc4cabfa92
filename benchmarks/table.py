"""Figures into Markdown.

    python benchmarks/table.py                 the tables of benchmarks/results.json
    python benchmarks/table.py FILE            ... of a file made by pytest --benchmark-json=FILE
    python benchmarks/table.py --update        measure everything anew, save results.json, and
                                               rewrite the marked blocks of README.md and docs/
    python benchmarks/table.py --update footprint exactness     ... measure only these parts
    python benchmarks/table.py --rewrite       rewrite the blocks from results.json

A block is what stands between ``<!-- table:NAME -->`` and ``<!-- /table -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PARTS = ("benchmarks", "footprint", "exactness", "demo")
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)

Data = dict[str, Any]


# ---- measuring


def measure(parts: Iterable[str]) -> Data:
    """The saved results, with some parts measured anew; a part that fails stays as it was."""
    results: Data = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    for part in parts:
        print(f"measuring: {part}", file=sys.stderr, flush=True)
        try:
            results = {**results, **_MEASURES[part]()}
        except subprocess.CalledProcessError as error:
            print(f"not measured: {part}: {error}", file=sys.stderr, flush=True)
    return results


def _run_benchmarks() -> Data:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "benchmarks.json"
        options = ["--benchmark-only", "--benchmark-quiet", f"--benchmark-json={file}", "-q"]
        _run("-m", "pytest", "benchmarks", *options)
        return from_pytest(json.loads(file.read_text("utf-8")))


def from_pytest(report: Data) -> Data:
    """What pytest-benchmark wrote, without what the tables do not use."""
    groups: Data = {}
    for case in report["benchmarks"]:
        groups.setdefault(case["group"], []).append(case["extra_info"])
    return {"machine": report["machine_info"], **groups}


def _run(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


_MEASURES: dict[str, Callable[[], Data]] = {
    "benchmarks": _run_benchmarks,
    "footprint": lambda: {"footprint": json.loads(_run("benchmarks/footprint.py"))},
    "exactness": lambda: {"exactness": json.loads(_run("benchmarks/exactness.py"))},
    "demo": lambda: {"demo": _run("examples/demo.py")},
}


# ---- tables


def machine(results: Data) -> str:
    found = results["machine"]
    packages = found["packages"]
    versions = [f"Python {found['python'].split()[0]}", f"NumPy {packages['numpy']}"]
    if packages["torch"]:
        versions.append(f"PyTorch {packages['torch'].split('+')[0]}")
    line = (
        f"{found['cpu']}, {found['cpus']} CPUs, `{found['best_isa']}`; {found['compiler']}, "
        f"{', '.join(versions)}; bitinfer {found['bitinfer']}, {found['date']}."
    )
    if found["load"] > _QUIET:
        line += f" **Provisional: the machine was busy (load {found['load']:.1f}).**"
    return line


_QUIET = 0.7  # load, of the minute before the benchmarks, up to which figures can be trusted


def kernels(results: Data) -> str:
    rows = []
    for shape in dict.fromkeys(tuple(case["shape"]) for case in results["kernels"]):
        cases = {c["epilogue"]: c for c in results["kernels"] if tuple(c["shape"]) == shape}
        codes = cases["codes"]
        operations = 2e-12 * shape[0] * shape[1] * shape[2]
        rivals = {name: operations / t["best"] for name, t in codes["rivals"].items()}
        rows.append(
            [
                " x ".join(map(str, shape)),
                *(
                    f"{_digits(c['tera_ops'])} ({c['share']:.0%})"
                    for c in map(cases.get, _EPILOGUES)
                    if c
                ),
                *(_digits(rivals[name]) if name in rivals else "" for name in _FLOATS),
            ]
        )
    head = ["M x N x K", "to bits", "to int32", "to float64", "NumPy float32", "PyTorch float32"]
    return _table(head, rows)


_EPILOGUES = ("codes", "sums", "affine")
_FLOATS = ("numpy float32", "torch float32")


def isas(results: Data) -> str:
    rows = [
        [f"`{case['isa']}`", _digits(case["tera_ops"]), _digits(case["limit"])]
        for case in results["isas"]
    ]
    return _table(["instruction set", "product", "registers alone"], rows)


def speed(results: Data) -> str:
    """Milliseconds by model and batch, for the README."""
    cases = {(c["model"], c["batch"], c["length"], c["threads"]): c for c in results["models"]}
    threads = sorted({key[3] for key in cases})
    rows = []
    for model, batch, length in dict.fromkeys(key[:3] for key in cases):
        found = [cases[model, batch, length, count] for count in threads]
        floats = [c["rivals"].get("torch float32") for c in found]
        rows.append(
            [
                f"{_TITLES[model]}, {batch} x {length}",
                *(_milliseconds(c["best"]) for c in found),
                *(_milliseconds(f["best"]) if f else "" for f in floats),
            ]
        )
    head = ["model, batch x tokens", *(f"bitinfer, {_threads(n)}" for n in threads)]
    return _table([*head, *(f"float32 PyTorch, {_threads(n)}" for n in threads)], rows)


_TITLES = {"sst2": "sst2 (6 x 384)", "base": "BERT-base (12 x 768)"}


def models(results: Data) -> str:
    rows = []
    for case in results["models"]:
        rivals = [case["rivals"].get(name) for name in ("torch float32", "binarized float32")]
        rows.append(
            [
                case["model"],
                f"{case['batch']} x {case['length']}",
                str(case["threads"]),
                _milliseconds(case["best"]),
                _milliseconds(case["median"]),
                f"{case['batch'] / case['best']:,.0f}",
                f"{_digits(case['tera_ops'])} ({case['share']:.0%})",
                *(_milliseconds(rival["best"]) if rival else "" for rival in rivals),
            ]
        )
    head = ["model", "batch x tokens", "threads", "ms", "ms, median", "sentences/s"]
    return _table([*head, "Tera-op/s", "float32 BERT, ms", "same network in float32, ms"], rows)


def predict(results: Data) -> str:
    rows = [
        [
            f"`predict` of {case['batch']} x {case['length']} tokens, {_threads(case['threads'])}",
            _milliseconds(case["best"]),
            _milliseconds(case["median"]),
            _milliseconds(case["rivals"]["tokenizer"]["best"]),
        ]
        for case in results["predict"]
    ]
    return _table(["sst2", "ms", "ms, median", "of it tokenizer, ms"], rows)


def sizes(results: Data) -> str:
    found = results["footprint"]["models"]
    names = [name for name in ("sst2", "base") if name in found]
    parts: dict[str, int] = {}
    for name in names:
        parts |= found[name]["parts"]
    del parts["total"]
    rows = [
        [part, *(f"{found[name]['parts'].get(part, 0):,}" for name in names)]
        for part in sorted(parts, key=lambda part: -parts[part])
    ]
    rest = [f"{found[n]['file'] - found[n]['parts']['total']:,}" for n in names]
    rows += [
        ["names of the tensors and other metadata", *rest],
        ["**file**", *(f"**{found[n]['file']:,}**" for n in names)],
        ["float32 checkpoint", *(f"{found[n]['checkpoint']:,}" for n in names)],
    ]
    return _table(["bytes", *(_TITLES[n] for n in names)], rows)


def footprint(results: Data) -> str:
    found = results["footprint"]
    rows = [
        [
            _TITLES[name],
            f"{model['file'] / 1e6:.1f} MB",
            f"{model['checkpoint'] / 1e6:.0f} MB",
            f"{model['first_prediction']:.2f} s",
            f"{model['peak'] / 1e6:.0f} MB",
        ]
        for name, model in found["models"].items()
    ]
    imports = f"{found['imports_peak'] / 1e6:.0f} MB"
    memory = f"peak memory (Python, NumPy, tokenizers alone: {imports})"
    head = ["model", "file", "float32 checkpoint", "import to first label", memory]
    return _table(head, rows)


def accuracy(results: Data) -> str:
    """Runs of the built-in model against the float64 definition."""
    found = results["exactness"]["sst2"]
    rows = []
    for name, run in found["runs"].items():
        share = run["correct"] / found["sentences"]
        rows.append(
            [
                name,
                f"{share:.2%}",
                f"{run['largest']:.2g}",
                *map(str, (run["sentences"], run["labels"])),
            ]
        )
    head = ["run", "accuracy", "largest difference of a logit", "sentences whose logits differ"]
    return _table([*head, "labels that differ"], rows)


def chaos(results: Data) -> str:
    """Float32 against float64 on random models."""
    rows = []
    for run in results["exactness"]["random"]:
        hidden = run["float32 hidden states"]
        rows.append(
            [
                f"{run['layers']} x {run['hidden']}",
                *(f"{hidden[i]:.0e}" for i in (1, 2)),
                f"{hidden[-1]:.2f}",
                f"{run['float32 logits']:.2f}",
                f"{run['engine codes differing']} of {run['engine codes']:,}",
                f"{run['engine logits']:.0e}",
            ]
        )
    head = ["layers x hidden", "float32: states after layer 1", "layer 2", "the last", "logits"]
    return _table([*head, "bitinfer: codes that differ", "logits"], rows)


def demo(results: Data) -> str:
    return f"```text\n$ make demo\n{results['demo'].rstrip()}\n```"


TABLES: dict[str, Callable[[Data], str]] = {
    table.__name__: table
    for table in (
        *(machine, kernels, isas, speed, models, predict),
        *(sizes, footprint, accuracy, chaos, demo),
    )
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _milliseconds(seconds: float) -> str:
    return _digits(1e3 * seconds)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


# ---- documents


def documents() -> list[Path]:
    """Every file that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewritten(text: str, results: Data) -> str:
    """The text with every block made anew; a block without results stays."""

    def render(block: re.Match[str]) -> str:
        try:
            return f"{block[1]}{TABLES[block[2]](results)}\n{block[3]}"
        except KeyError:
            return block[0]

    return BLOCK.sub(render, text)


def rewrite(results: Data) -> None:
    for path in documents():
        text = path.read_text("utf-8")
        path.write_text(rewritten(text, results), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=RESULTS, help="results to show")
    parser.add_argument("--update", nargs="*", choices=PARTS, metavar="PART")
    parser.add_argument("--rewrite", action="store_true")
    options = parser.parse_args()
    if options.update is not None:
        results = measure(options.update or PARTS)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    else:
        results = json.loads(options.file.read_text("utf-8"))
    if "benchmarks" in results:
        results = from_pytest(results)
    if options.rewrite or options.update is not None:
        rewrite(results)
        return
    for name, table in TABLES.items():
        try:
            print(f"### {name}\n\n{table(results)}\n")
        except KeyError:  # not measured
            continue


if __name__ == "__main__":
    main()
