"""Figures into Markdown.

    python benchmarks/table.py                 the tables of benchmarks/results.json
    python benchmarks/table.py FILE            ... of a file made by pytest --benchmark-json=FILE
    python benchmarks/table.py --update        measure everything anew, save results.json, and
                                               rewrite the marked blocks of README.md and docs/
    python benchmarks/table.py --update footprint exactness     ... measure only these parts
    python benchmarks/table.py --rewrite       rewrite the blocks from results.json

Shown here, but measured elsewhere: the comparison with other engines (``python -m
benchmarks.compare``), training (``examples/publish.py``, ``benchmarks/trained.py``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import trained
from benchmarks.compare.tables import TABLES as COMPARISONS
from benchmarks.markdown import (
    QUIET,
    ROOT,
    TITLES,
    Data,
    digits,
    milliseconds,
    rewrite,
    show,
    table,
    thread_count,
)

RESULTS = ROOT / "benchmarks" / "results.json"
COMPARISON = ROOT / "benchmarks" / "compare" / "results.json"
PARTS = ("benchmarks", "bits", "stages", "stream", "footprint", "exactness", "evaluation", "demo")


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
    "bits": lambda: {"bits": json.loads(_run("benchmarks/bits.py"))},
    "stages": lambda: {"stages": json.loads(_run("benchmarks/stages.py"))},
    "stream": lambda: {"stream": json.loads(_run("benchmarks/stream.py"))},
    "footprint": lambda: {"footprint": json.loads(_run("benchmarks/footprint.py"))},
    "exactness": lambda: {"exactness": json.loads(_run("benchmarks/exactness.py"))},
    "evaluation": lambda: {"evaluation": json.loads(_run("benchmarks/evaluation.py"))},
    "demo": lambda: {"demo": _run("examples/demo.py")},
}


def saved_elsewhere() -> Data:
    """The comparison and the trainings, as far as there are any."""
    found = trained.saved()
    if COMPARISON.is_file():
        found["compare"] = json.loads(COMPARISON.read_text("utf-8"))
    return found


# ---- tables


def machine(results: Data) -> str:
    return _machine(results["machine"])


def _machine(found: Data) -> str:
    packages = found["packages"]
    versions = [f"Python {found['python'].split()[0]}", f"NumPy {packages['numpy']}"]
    if packages["torch"]:
        versions.append(f"PyTorch {packages['torch'].split('+')[0]}")
    line = (
        f"{found['cpu']}, {found['cpus']} CPUs, `{found['best_isa']}`; {found['compiler']}, "
        f"{', '.join(versions)}; bitinfer {found['bitinfer']}, {found['date']}."
    )
    if found["load"] > QUIET:
        line += f" **Provisional: the machine was busy (load {found['load']:.1f}).**"
    return line


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
                    f"{digits(c['tera_ops'])} ({c['share']:.0%})"
                    for c in map(cases.get, _EPILOGUES)
                    if c
                ),
                *(digits(rivals[name]) if name in rivals else "" for name in _FLOATS),
            ]
        )
    head = ["M x N x K", "to bits", "to int32", "to float64", "NumPy float32", "PyTorch float32"]
    return table(head, rows)


_EPILOGUES = ("codes", "sums", "affine")
_FLOATS = ("numpy float32", "torch float32")


def isas(results: Data) -> str:
    rows = [
        [f"`{case['isa']}`", digits(case["tera_ops"]), digits(case["limit"])]
        for case in results["isas"]
    ]
    return table(["instruction set", "product", "registers alone"], rows)


def models(results: Data) -> str:
    rows = []
    for case in results["models"]:
        rivals = [case["rivals"].get(name) for name in ("torch float32", "binarized float32")]
        rows.append(
            [
                case["model"],
                f"{case['batch']} x {case['length']}",
                str(case["threads"]),
                milliseconds(case["best"]),
                milliseconds(case["median"]),
                f"{case['batch'] / case['best']:,.0f}",
                f"{digits(case['tera_ops'])} ({case['share']:.0%})",
                *(milliseconds(rival["best"]) if rival else "" for rival in rivals),
            ]
        )
    head = ["model", "batch x tokens", "threads", "ms", "ms, median", "sentences/s"]
    return table([*head, "Tera-op/s", "float32 BERT, ms", "same network in float32, ms"], rows)


def bits(results: Data) -> str:
    """What more bits of activations cost, with the machine."""
    found = results["bits"]
    cases = found["cases"]
    one = [milliseconds(case["one bit"]) + " ms" for case in cases]
    rows = [["1-1-1", "", *one, f"{found['sizes']['1-1-1'] / 1e6:.1f} MB"]]
    for other in cases[0]["others"]:
        ratios = [
            f"{ratio['ratio']:.2f}"
            for case in cases
            for ratio in case["others"]
            if (ratio["bits"], ratio["from_min"]) == (other["bits"], other["from_min"])
        ]
        rule = "from their minimum" if other["from_min"] else "from 0"
        size = "" if other["from_min"] else f"{found['sizes'][other['bits']] / 1e6:.1f} MB"
        rows.append([other["bits"], rule, *ratios, size])
    head = [
        f"{case['batch']} x {case['length']}, {thread_count(case['threads'])}" for case in cases
    ]
    return (
        f"{table(['bits', 'unsigned codes', *head, 'file'], rows)}\n\n{_machine(found['machine'])}"
    )


def predict(results: Data) -> str:
    rows = [
        [
            f"`predict` of {case['batch']} x {case['length']} tokens, "
            f"{thread_count(case['threads'])}",
            milliseconds(case["best"]),
            milliseconds(case["median"]),
            milliseconds(case["rivals"]["tokenizer"]["best"]),
        ]
        for case in results["predict"]
    ]
    return table(["sst2", "ms", "ms, median", "of it tokenizer, ms"], rows)


def stages(results: Data) -> str:
    cases = results["stages"]
    names = list(cases[0]["shares"])
    rows = [
        [
            f"{case['model']}, {case['batch']} x {case['length']}",
            str(case["threads"]),
            milliseconds(case["best"]),
            *(f"{100 * case['shares'][name]:.1f}" for name in names),
            f"{100 * sum(case['shares'][name] for name in names if name not in _PRODUCTS):.1f}",
        ]
        for case in cases
    ]
    head = ["model, batch x tokens", "threads", "ms", *(f"{name}, %" for name in names)]
    return table([*head, "all but the products of linears, %"], rows)


_PRODUCTS = ("projections", "attention output", "intermediate", "output")


def stream(results: Data) -> str:
    rows = [
        [
            TITLES[case["model"]],
            f"{case['predict']:.2f} s",
            f"{case['engine']:.2f} s",
            f"{case['predict'] / case['engine']:.3f}",
            f"{milliseconds(case['single']['median'])} ms",
            f"{milliseconds(case['single']['best'])} ms",
        ]
        for case in results["stream"]
    ]
    first = results["stream"][0]
    return table(
        [
            thread_count(first["threads"]),
            f"`predict` of {first['sentences']:,} sentences",
            "engine on ready ids",
            "ratio",
            f"one sentence of {first['single']['tokens']} tokens, median",
            "best",
        ],
        rows,
    )


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
    return table(["bytes", *(TITLES[n] for n in names)], rows)


def footprint(results: Data) -> str:
    found = results["footprint"]
    rows = [
        [
            TITLES[name],
            f"{model['file'] / 1e6:.1f} MB",
            f"{model['checkpoint'] / 1e6:.0f} MB",
            f"{model['process_to_first_prediction']:.2f} s",
            f"{model['first_prediction']:.2f} s",
            f"{model['peak'] / 1e6:.0f} MB",
        ]
        for name, model in found["models"].items()
    ]
    imports = f"{found['imports_peak'] / 1e6:.0f} MB"
    memory = f"peak memory (Python, NumPy, tokenizers alone: {imports})"
    times = ["process start to first label", "import to first label"]
    return table(["model", "file", "float32 checkpoint", *times, memory], rows)


def accuracy(results: Data) -> str:
    """Runs of the built-in model against the float64 definition."""
    return _against_float64(results["exactness"]["sst2"])


def published(results: Data) -> str:
    """The same of a checkpoint that the published code trained, with the runs of that code."""
    return _against_float64(results["exactness"]["published"])


def _against_float64(found: Data) -> str:
    rows = []
    for name, run in found["runs"].items():
        share = run["correct"] / found["sentences"]
        counts = map(str, (run["sentences"], run["labels"]))
        rows.append([name, f"{share:.2%}", f"{run['largest']:.2g}", *counts])
    head = ["run", "accuracy", "largest difference of a logit", "sentences whose logits differ"]
    return table([*head, "labels that differ"], rows)


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
    return table([*head, "bitinfer: codes that differ", "logits"], rows)


def demo(results: Data) -> str:
    return f"```text\n$ make demo\n{results['demo'].rstrip()}\n```"


TABLES: dict[str, Callable[[Data], str]] = {
    render.__name__: render
    for render in (
        *(machine, kernels, isas, models, bits, predict, stages, stream),
        *(sizes, footprint, accuracy, published, chaos, demo),
    )
}
TABLES |= COMPARISONS | trained.TABLES


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
        rewrite(results | saved_elsewhere(), TABLES)
    else:
        show(results | saved_elsewhere(), TABLES)


if __name__ == "__main__":
    main()
