"""The comparison with other engines, without them: who runs when, and what the tables say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.compare import contestants, measure, tables, worker
from benchmarks.compare.contestants import Check, Contestant
from benchmarks.compare.scheduler import ContestantError, Process, interleave
from benchmarks.compare.summary import line, ratio, ratios, spread
from benchmarks.markdown import rewritten

linux = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as on Linux")


# ---- figures


def test_spread() -> None:
    assert spread([3, 1, 2, 5, 4]) == (2, 3, 4)
    assert spread([7.0]) == (7, 7, 7)


def test_ratios_are_taken_by_round() -> None:
    assert ratios([1, 2, 4], [3, 8]) == [3, 4]


def test_ratio_is_of_the_rounds_that_both_have() -> None:
    assert ratio([4, 5, 6, 1, 1], [50, 40, 60]) == 10
    assert ratio([], [1]) is None


def test_line_goes_through_points_on_a_line() -> None:
    sizes = [16, 256, 16384]
    constant, slope = line(sizes, [0.5 + 0.25 * size for size in sizes])
    assert constant == pytest.approx(0.5)
    assert slope == pytest.approx(0.25)


# ---- rounds


class Fake:
    """Takes part in rounds and notes when."""

    def __init__(self, name: str, seconds: float, log: list[str], last: int = 1000) -> None:
        self.name, self.seconds, self.log, self.left = name, seconds, log, last

    def warm(self) -> None:
        self.log.append(f"{self.name} warms up")

    def time(self) -> tuple[float, float]:
        self.log.append(self.name)
        self.left -= 1
        if self.left < 0:
            raise ContestantError("gone")
        return self.seconds, 1.0


def test_rounds_take_turns() -> None:
    log: list[str] = []
    found = interleave({name: Fake(name, 0.1, log) for name in "ab"}, seconds=1.3)
    assert {name: own["seconds"] for name, own in found.items()} == dict.fromkeys("ab", [0.1] * 6)
    first = [step for name in "ab" for step in (name, f"{name} warms up", name)]
    later = [step for name in "ab" for step in (f"{name} warms up", name)]
    assert log == first + 5 * later


def test_slow_ones_take_part_less_often() -> None:
    runs = {"fast": 0.01, "slow": 1.0, "slowest": 5.0}
    found = interleave({n: Fake(n, s, []) for n, s in runs.items()}, seconds=1)
    assert [len(found[name]["seconds"]) for name in runs] == [30, 5, 1]


def test_one_that_fails_leaves_the_others_alone() -> None:
    found = interleave({"a": Fake("a", 0.1, [], last=2), "b": Fake("b", 0.1, [])}, seconds=0.6)
    assert found["a"]["error"] == "gone"
    assert found["b"]["seconds"] == [0.1] * 5


# ---- workers


class Sleeper(Contestant):
    """Needs nothing."""

    def prepare(self, cell: dict[str, Any]) -> str:
        if cell["model"] == "none":
            raise ValueError("no such model")
        return "the only one"

    def call(self) -> None:
        time.sleep(0.001)

    def check(self) -> Check:
        return Check("itself", 0.0, 1.0)


def test_worker_answers_each_request() -> None:
    requests = [
        {"do": "prepare", "cell": {"model": "base"}},
        {"do": "prepare", "cell": {"model": "none"}},
        {"do": "time"},
        {"do": "warm"},
        {"do": "check"},
        {"do": "nothing"},
    ]
    replies = io.StringIO()
    lines = io.StringIO("".join(json.dumps(request) + "\n" for request in requests))
    worker.serve(Sleeper("", 1), lines, replies)
    ready, failed, timed, warm, checked, unknown = map(json.loads, replies.getvalue().splitlines())
    assert ready == {"variant": "the only one"}
    assert failed == {"error": "ValueError: no such model"}
    assert 0.001 <= timed["seconds"] < 1
    assert warm == {}
    assert checked == {"reference": "itself", "difference": 0.0, "tolerance": 1.0}
    assert "do: found 'nothing'" in unknown["error"]


@pytest.fixture
def process() -> Iterator[Process]:
    with Process("kernels", "numpy-fp32", 1) as process:
        yield process


def state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@linux
def test_process_sleeps_between_questions(process: Process) -> None:
    assert process.ask("check")["difference"] == 0
    deadline = time.monotonic() + 10
    while state(process) != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state(process) == "T"
    process.call()
    seconds, busy = process.time()
    assert seconds > 0
    assert busy > 0


@linux
def test_errors_and_the_end_of_a_process_are_told(process: Process) -> None:
    with pytest.raises(ContestantError, match="KeyError"):
        process.ask("prepare", cell={})
    os.kill(process.pid, 9)
    with pytest.raises(ContestantError, match="ended with status -9"):
        process.call()


@linux
def test_one_that_is_late_is_ended(process: Process) -> None:
    process.patience = 0.5
    with pytest.raises(ContestantError, match=r"no answer to 'prepare' in 0\.5 s"):
        process.ask("prepare", cell={"shape": (20000, 20000, 3000)})


@linux
def test_last_words_of_a_process_are_told() -> None:
    with (
        Process("kernels", "no such kernel", 1) as process,
        pytest.raises(ContestantError, match="KeyError: 'no such kernel'"),
    ):
        process.call()


def test_every_contestant_has_its_class() -> None:
    """Files are there and name the class; their imports are not at hand."""
    folder = Path(contestants.__file__).parent
    for group in contestants.GROUPS.values():
        for entry in group.values():
            module, _, name = entry.place.partition(":")
            source = folder.joinpath(*module.split(".")).with_suffix(".py").read_text("utf-8")
            assert f"class {name}(" in source


# ---- tables


def cell(**facts: Any) -> dict[str, Any]:
    timings = {
        "bitinfer": {"seconds": [0.010, 0.011, 0.012], "busy": 1.0, "variant": ""},
        "openvino-int8": {"seconds": [0.040, 0.033, 0.036], "busy": 1.0, "variant": "bf16"},
    }
    if facts.pop("failed", False):
        timings["openvino-int8"]["seconds"] = []
    return {"threads": 2, "timings": timings, "errors": {}, **facts}


def results() -> dict[str, Any]:
    speed = [cell(model="base", batch=1, length=128)]
    return {"compare": {"speed": speed, "tokens": [cell(tokens=n) for n in (16, 32)]}}


def test_tables() -> None:
    rows = tables.headline(results()).splitlines()
    assert rows[-2:] == [
        "| 1 x 128 | 11 | 36 | 3.3x |",
        "| geometric mean of the ratios |  |  | 3.3x |",
    ]
    assert "| OpenVINO int8 | 36 (3.3x) |" in tables.many_threads(results())
    assert "| 11 | 36 | 3.27 | bf16 |" in tables.spreads(results())  # three make no quartiles


def test_figures_beside_each_other_are_of_the_same_rounds() -> None:
    found = results()
    own = found["compare"]["speed"][0]["timings"]["bitinfer"]
    own["seconds"] = [0.012, 0.012, 0.012, *[0.001] * 9]
    for table in (tables.headline, tables.spreads):
        assert "| 12 | 36 | 3.0" in table(found)


def test_cells_need_not_be_the_same_for_all_threads() -> None:
    few = results()
    few["compare"]["speed"].append(cell(model="base", batch=8, length=128, threads=1))
    assert "| 8 x 128 |  |  |  | 11 | 36 | 3.3x |" in tables.headline(few)
    failed = cell(model="base", batch=8, length=128, failed=True)
    few["compare"]["speed"] = [*results()["compare"]["speed"], failed]
    assert "| 8 x 128 | 11 |  |  |" in tables.headline(few)
    assert "| OpenVINO int8 | 36 (3.3x) |  |" in tables.many_threads(few)


def kernel(name: str) -> dict[str, Any]:
    timings = {name: {"seconds": [0.1], "busy": 1.0, "variant": ""}}
    return {"threads": 1, "shape": [1, 768, 768], "timings": timings, "errors": {}}


_SIZE = {"model": "base", "batch": 1, "length": 128}
POOR: list[dict[str, Any]] = [
    {},
    {part: [] for part in measure.PARTS},
    {"tokens": [cell(tokens=16)]},
    {"tokens": [cell(tokens=16), cell(tokens=32, failed=True)]},
    {
        "speed": [cell(failed=True, **_SIZE)],
        "ragged": [cell(failed=True, lengths=[3, 4])],
        "avx2": [cell(failed=True, **_SIZE)],
        "start": [{"name": "bitinfer", "error": "gone"}],
        "checks": [{"group": "engines", "name": "bitinfer", "error": "gone"}],
    },
    {"speed": [{"threads": 1, "timings": {}, "errors": {"bitinfer": "gone"}, **_SIZE}]},
    {"kernels": [{"threads": 1, "shape": [1, 2, 3], "timings": {}, "errors": {}}]},
    {"kernels": [kernel("memory")]},
    {"kernels": [kernel("registers")]},
]


@pytest.mark.parametrize("found", POOR)
def test_what_is_missing_leaves_blocks_and_pictures_as_they_are(found: dict[str, Any]) -> None:
    for name in tables.TABLES:
        block = f"<!-- table:{name} -->\nold\n<!-- /table -->\n"
        new = rewritten(block, {"compare": found}, tables.TABLES)
        assert "old" in new or new.count("\n|") >= 2
    if plots := _plots():
        for plot in plots.PLOTS.values():
            with contextlib.suppress(KeyError):
                plot({"compare": found})


def _plots() -> Any:
    try:
        from benchmarks.compare import plots
    except ImportError:  # drawn where the other engines are
        return None
    return plots


def run(load: float = 0.1, **plan: Any) -> dict[str, Any]:
    texts = dict.fromkeys(("cpu", "python", "bitinfer", "best_isa", "compiler", "date"), "some")
    machine = {**texts, "cpus": 2, "packages": {"other": "2"}, "load": load}
    return {"less": [], "machine": machine, **plan}


def test_figures_that_are_not_to_be_relied_on_say_so() -> None:
    found = results()
    found["compare"]["machine"] = run()["machine"]
    found["compare"]["runs"] = {"speed": run(), "tokens": run()}
    assert "Provisional" not in tables.versions(found)
    found["compare"]["runs"]["tokens"] = run(less=["quick"])
    assert "Provisional: measured only in part (tokens).**" in tables.versions(found)
    found["compare"]["runs"]["tokens"] = run(load=2.0)
    assert "the machine was busy (load 2.0)" in tables.versions(found)
    del found["compare"]["runs"]["tokens"]
    assert "Provisional" in tables.versions(found)


def test_run_is_kept_and_the_unchecked_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {"group": "engines", "name": "faulty", "error": "gone"}
    monkeypatch.setitem(measure.PARTS, "checks", lambda _: [gone])
    monkeypatch.setitem(
        measure.PARTS, "speed", lambda plan: plan.sound("engines", ["bitinfer", "faulty"])
    )
    file = tmp_path / "results.json"
    plan = measure.Plan(less=["quick"])
    found = measure.measure(["checks", "speed"], plan, file, load=0.25)
    assert found["speed"] == ["bitinfer"]
    assert found["runs"]["speed"]["less"] == ["quick"]
    assert found["runs"]["speed"]["machine"]["load"] == 0.25
    gone["difference"] = 1.0
    with pytest.raises(ContestantError, match="wrong answers"):
        measure.measure(["checks"], plan, file, load=0.25)


def test_blocks_without_results_stay() -> None:
    block = "<!-- table:{} -->\nold\n<!-- /table -->\n"
    text = block.format("compare_start") + block.format("compare_headline")
    new = rewritten(text, results(), tables.TABLES)
    assert new.count("old") == 1
    assert "3.3x" in new


def test_saved_results_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "some" / "results.json"
    found = measure.rounded({"seconds": [0.123456, 2], "name": "a [b, c]"})
    measure.write(file, found)
    assert json.loads(file.read_text("utf-8")) == {"seconds": [0.1235, 2], "name": "a [b, c]"}
    assert list(file.parent.iterdir()) == [file]


def test_ragged_texts_are_the_same_for_ever() -> None:
    lengths = measure.ragged_lengths()
    assert (len(lengths), min(lengths), max(lengths)) == (32, 17, 103)
