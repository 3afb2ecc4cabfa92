"""The loop of training by itself: budgets, rates, what is kept, and going on after a kill."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="needs the extra train")

from bitinfer.errors import InputError  # noqa: E402
from bitinfer.runtime.text import TokenBatch  # noqa: E402
from bitinfer.train import loop  # noqa: E402
from bitinfer.train.data import Batch, Dataset, Task  # noqa: E402
from bitinfer.train.loop import rate_share, train  # noqa: E402
from bitinfer.train.options import Budget, DistillOptions  # noqa: E402
from bitinfer.train.report import Point, StageResult  # noqa: E402
from bitinfer.train.run import Run, check_folder, write_log  # noqa: E402

FILES = ("teacher", "train.tsv", "dev.tsv", "out")
OPTIONS = DistillOptions(*FILES, batch_size=4, learning_rate=0.1, evaluate_every=3)
ROWS = 10  # three batches an epoch
SETTINGS = {"seed": 0, "train": "f00d"}


class Network(torch.nn.Module):  # type: ignore[misc]
    """A table of which a batch touches some rows, and something random."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 8, sparse=True)
        self.dropout = torch.nn.Dropout(0.3)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, batch: Batch) -> Any:
        words = self.dropout(self.table(batch.ids)) * batch.mask[..., None]
        return self.head(words.sum(1))


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    return Network()


@pytest.fixture(scope="module")
def data() -> Dataset:
    random = np.random.RandomState(0)
    lengths = random.randint(3, 9, ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = random.randint(0, 20, offsets[-1]).astype(np.int32)
    tokens = TokenBatch(ids, ids * 0, ids * 0, offsets)
    targets = torch.from_numpy(random.randint(0, 2, ROWS))
    return Dataset(tokens, targets, Task(("no", "yes")))


class Training:
    """A stage of a network whose dev metric is what a test says."""

    def __init__(self, network: Any, data: Dataset, folder: Path) -> None:
        self.network, self.data, self.folder = network, data, folder
        self.values: Iterator[float] | None = None
        self.stop_at: int | None = None
        self.seen: list[Any] = []
        self.steps = 0

    def loss(self, batch: Batch) -> Any:
        if self.steps == self.stop_at:
            raise KeyboardInterrupt
        self.steps += 1
        assert self.network.training
        return torch.nn.functional.cross_entropy(self.network(batch), batch.targets)

    def measure(self) -> float:
        assert not self.network.training
        self.seen.append({k: v.clone() for k, v in self.network.state_dict().items()})
        if self.values is not None:
            return next(self.values)
        return self.network.head.weight.sum().item()

    def __call__(
        self, budget: Budget, options: DistillOptions = OPTIONS, **more: Any
    ) -> StageResult:
        return train(
            self.network,
            more.pop("loss", self.loss),
            self.measure,
            self.data,
            name="1-1-2",
            budget=budget,
            options=options,
            run=more.pop("run", None) or Run(self.folder, SETTINGS),
            show_progress_bar=more.pop("show_progress_bar", False),
            **more,
        )


@pytest.fixture
def training(network: Any, data: Dataset, tmp_path: Path) -> Training:
    return Training(network, data, tmp_path / "run")


# ---- what is seen


def test_token_noise(training: Training, network: Any, data: Dataset, tmp_path: Path) -> None:
    """Every step draws its own, which is the same when a run is resumed."""

    def seen(folder: str, noise: float, stop_at: int | None = None, **more: Any) -> list[Any]:
        run = Training(network, data, tmp_path / folder)
        run.stop_at = stop_at
        batches = []

        def loss(batch: Batch) -> Any:
            value = run.loss(batch)
            batches.append((batch.indices.tolist(), batch.ids.tolist()))
            return value

        with contextlib.suppress(KeyboardInterrupt):
            run(Budget(steps=9), replace(OPTIONS, token_noise=noise), loss=loss, **more)
        return batches

    plain, noisy = seen("a", 0.0), seen("b", 0.3)
    assert [rows for rows, _ in plain] == [rows for rows, _ in noisy]
    assert sum(a != b for a, b in zip(plain, noisy, strict=True)) > 5
    assert seen("c", 0.3) == noisy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_SAVE_EVERY", -1.0)
        first = seen("d", 0.3, stop_at=5)
    assert first + seen("d", 0.3) == noisy
    # Another stage sees the same examples with other tokens.
    second = Run(tmp_path / "e", SETTINGS)
    second.finish({}, RESULT)
    other = seen("e", 0.3, run=second)
    assert [rows for rows, _ in other] == [rows for rows, _ in noisy]
    assert sum(a != b for a, b in zip(other, noisy, strict=True)) > 5
    # The same examples again, in another epoch, are replaced otherwise.
    by_rows: dict[int, set[tuple[int, ...]]] = {}
    for rows, ids in noisy:
        for row, tokens in zip(rows, ids, strict=True):
            by_rows.setdefault(row, set()).add(tuple(tokens))
    assert max(map(len, by_rows.values())) == 3


# ---- how long


def test_budget_in_steps(training: Training) -> None:
    result = training(Budget(steps=7))
    assert training.steps == result.steps == 7
    assert result.epochs == pytest.approx(7 / 3)
    assert [point.step for point in result.points] == [3, 6, 7]


def test_budget_in_epochs(training: Training) -> None:
    assert training(Budget(epochs=1.7)).steps == 5
    assert training.steps == 5


def test_budget_in_epochs_is_at_least_a_step(training: Training) -> None:
    assert training(Budget(epochs=0.01)).steps == 1


def test_budget_in_minutes(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring and all else counts too."""
    now = [0.0]

    def later() -> float:
        now[0] += 1
        return now[0]

    monkeypatch.setattr("time.monotonic", later)
    result = training(Budget(minutes=0.5))
    assert 30 <= result.seconds <= 33
    assert 0 < result.steps < 30
    monkeypatch.undo()
    assert training(Budget(minutes=1e-9)).steps == 0


def test_measurements(training: Training) -> None:
    """One at the end, not two, however the steps fall."""
    result = training(Budget(steps=6))
    assert [point.step for point in result.points] == [3, 6]
    assert all(point.loss is not None and math.isfinite(point.loss) for point in result.points)
    seconds = [point.seconds for point in result.points]
    assert 0 < seconds[0] < seconds[1] == result.seconds


# ---- rates


def test_rates_rise_and_fall() -> None:
    shares = [rate_share(progress) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert shares == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_every_step_has_its_rate(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []

    class Recorder(torch.optim.SGD):  # type: ignore[misc]
        def step(self) -> None:
            rates.append([group["lr"] for group in self.param_groups])
            norm = sum(float(p.grad.square().sum()) for p in self.param_groups[0]["params"])
            assert math.sqrt(norm) <= 1e-3 * 1.001

    def optimizers(model: Any, options: DistillOptions) -> list[Any]:
        groups = [{"params": [model.head.weight], "multiple": 1.0}]
        return [Recorder([*groups, {"params": [model.head.bias], "multiple": 4.0}], lr=99.0)]

    monkeypatch.setattr(loop, "_optimizers", optimizers)
    training.network.table.sparse = False
    monkeypatch.setattr(DistillOptions, "most_gradient", 1e-3)
    training(Budget(steps=8))
    assert len(rates) == 8
    for step, found in enumerate(rates):
        rate = 0.1 * rate_share(step / 8)
        assert found == pytest.approx([rate, 4 * rate])


def test_matrices_decay_and_vectors_have_their_rate(network: Any) -> None:
    dense, sparse = loop._optimizers(network, replace(OPTIONS, vector_rate=3.0))
    groups = [[id(each) for each in group["params"]] for group in dense.param_groups]
    assert groups == [[id(network.head.weight)], [id(network.head.bias)]]
    assert [group["weight_decay"] for group in dense.param_groups] == [0.01, 0.0]
    assert [group["multiple"] for group in dense.param_groups] == [1.0, 3.0]
    (rows,) = sparse.param_groups
    assert (rows["params"], rows["multiple"]) == ([network.table.weight], 1.0)


def test_untrained_parameters_have_no_optimizer(network: Any) -> None:
    network.table.sparse = False
    network.head.bias.requires_grad = False
    (dense,) = loop._optimizers(network, OPTIONS)
    assert [len(group["params"]) for group in dense.param_groups] == [2, 0]


# ---- what is kept


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([0.2, 0.7, 0.5], 1),
        ([0.2, 0.7, 0.7], 1),  # the first of equals
        ([-0.5, -0.7, -0.4], 2),
        ([math.nan, 0.1, 0.05], 1),
        ([0.1, math.nan, 0.05], 0),
        ([math.nan, -1.0, 0.2], 2),
        ([math.nan, math.nan, math.nan], 0),
    ],
)
def test_the_best_is_kept(training: Training, values: list[float], best: int) -> None:
    training.values = iter(values)
    result = training(Budget(steps=9))
    assert result.best_step == 3 * (best + 1)
    assert result.best == pytest.approx(values[best], nan_ok=True)
    assert [point.value for point in result.points] == pytest.approx(values, nan_ok=True)
    assert not training.network.training
    for name, tensor in training.network.state_dict().items():
        assert torch.equal(tensor, training.seen[best][name]), name
        assert not torch.equal(tensor, training.seen[best - 1][name]), name


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_loss_that_is_not_finite(training: Training, bad: float) -> None:
    def loss(batch: Batch) -> Any:
        return training.loss(batch) * (bad if training.steps == 5 else 1)

    with pytest.raises(InputError, match=rf"stage 1-1-2, step 5: the loss became {bad}; .*0\.1"):
        training(Budget(steps=9), loss=loss)


def test_log(training: Training) -> None:
    training.values = iter([0.5, math.nan])
    result = training(Budget(steps=6))
    lines = (training.folder / "log.jsonl").read_text()
    write_log(training.folder.parent, [result])
    assert (training.folder.parent / "log.jsonl").read_text() == lines
    logged = [json.loads(line, parse_constant=pytest.fail) for line in lines.splitlines()]
    assert [(line["stage"], line["step"]) for line in logged] == [("1-1-2", 3), ("1-1-2", 6)]
    assert [line["value"] for line in logged] == [0.5, None]
    assert [line["loss"] for line in logged] == [point.loss for point in result.points]


def test_progress(training: Training, capsys: pytest.CaptureFixture[str]) -> None:
    training.values = iter([0.1234, 0.5])
    training(Budget(steps=6))
    assert capsys.readouterr() == ("", "")
    training.values = iter([0.1234, 0.5])
    training(Budget(steps=6), show_progress_bar=True)
    shown = capsys.readouterr().err
    assert "1-1-2 " in shown
    assert "dev=0.5000" in shown or "dev=0.1234" in shown


# ---- going on


@pytest.fixture
def save_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)


def outcome(result: StageResult, network: Any) -> tuple[Any, ...]:
    """All but times."""
    points = [(point.step, point.loss, point.value) for point in result.points]
    state = {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}
    return result.steps, result.best_step, result.best, points, state


def start(data: Dataset, folder: Path) -> Training:
    torch.manual_seed(0)
    return Training(Network(), data, folder)


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, batch_tokens=20)])
@pytest.mark.parametrize("kills", [[1], [3], [4], [8], [2, 7], [9]])
@pytest.mark.usefixtures("save_always")
def test_a_resumed_stage_ends_like_any_other(
    kills: list[int], options: DistillOptions, data: Dataset, tmp_path: Path
) -> None:
    unbroken = start(data, tmp_path / "a")
    expected = outcome(unbroken(Budget(steps=9), options), unbroken.network)
    for kill in kills:
        broken = start(data, tmp_path / "b")
        broken.stop_at = kill - (kills[0] if kill != kills[0] else 0)
        if kill < 9:
            with pytest.raises(KeyboardInterrupt):
                broken(Budget(steps=9), options)
        else:
            broken(Budget(steps=9), options)  # all steps were done, and nothing was made of it
    resumed = start(data, tmp_path / "b")
    torch.manual_seed(1)  # the state of what draws dropout is saved too
    result = resumed(Budget(steps=9), options)
    assert resumed.steps == 9 - kills[-1]
    assert outcome(result, resumed.network) == expected


def test_what_was_not_saved_is_done_again(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = start(data, tmp_path / "a")
    expected = outcome(unbroken(Budget(steps=9)), unbroken.network)
    broken = start(data, tmp_path / "b")
    keep, kept = Run.keep, []

    def keep_once(run: Run, middle: dict[str, Any]) -> None:
        kept.append(middle["step"])
        if len(kept) == 4:
            keep(run, middle)

    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    monkeypatch.setattr(Run, "keep", keep_once)
    broken.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        broken(Budget(steps=9))
    monkeypatch.undo()
    resumed = start(data, tmp_path / "b")
    result = resumed(Budget(steps=9))
    assert resumed.steps == 5
    assert outcome(result, resumed.network) == expected


@pytest.mark.usefixtures("save_always")
def test_time_goes_on(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def later() -> float:
        now[0] += 1
        return now[0]

    monkeypatch.setattr("time.monotonic", later)
    broken = start(data, tmp_path)
    broken.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        broken(Budget(minutes=1))
    spent = torch.load(tmp_path / "state.pt")["middle"]["seconds"]
    assert spent > 10
    now[0] = 1e6
    resumed = start(data, tmp_path)
    result = resumed(Budget(minutes=1))
    assert 60 <= result.seconds <= 65
    seconds = [point.seconds for point in result.points]
    assert seconds == sorted(seconds)
    Run(tmp_path, SETTINGS).finish({}, result)
    assert Run(tmp_path, SETTINGS).earlier == result.seconds


@pytest.mark.usefixtures("save_always")
def test_the_state_of_a_stage_that_is_finished_is_gone(data: Dataset, tmp_path: Path) -> None:
    first = start(data, tmp_path)
    result = first(Budget(steps=3))
    Run(tmp_path, SETTINGS).finish(first.network.state_dict(), result)
    second = start(data, tmp_path)
    assert second(Budget(steps=3)).steps == 3
    assert second.steps == 3


def test_saving_takes_place_now_and_then(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    training(Budget(steps=5))
    assert not (training.folder / "state.pt").exists()
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    training(Budget(steps=5))
    assert (training.folder / "state.pt").exists()
    assert [path.name for path in training.folder.glob(".*")] == []


@pytest.mark.usefixtures("save_always")
def test_a_full_disk(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state before is still there, and the error says what it is."""
    training.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        training(Budget(steps=5))
    before = (training.folder / "state.pt").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    training.stop_at = None
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        training(Budget(steps=5))
    assert (training.folder / "state.pt").read_bytes() == before
    assert {path.name for path in training.folder.iterdir()} == {"state.pt", "log.jsonl"}


# ---- what is on the disk may be anything


RESULT = StageResult("1-1-2", 5, 1.5, 2.0, 3, 0.5, (Point(3, 1.0, None, 0.5),))


def test_finished_stages(tmp_path: Path) -> None:
    """The results of all, and the weights of the last."""
    run = Run(tmp_path / "run", SETTINGS)
    assert (run.results, run.weights, run.middle) == ([], {}, None)
    run.finish({"a": torch.zeros(3)}, RESULT)
    run.finish({"a": torch.arange(3)}, replace(RESULT, bits="1-1-1"))
    found = Run(tmp_path / "run", SETTINGS)
    assert torch.equal(found.weights["a"], torch.arange(3))
    assert found.results == [RESULT, replace(RESULT, bits="1-1-1")]
    run.remove()
    assert not (tmp_path / "run").exists()


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    """And is no place for a run, unless one has begun there."""
    folder = tmp_path / "run"
    run = Run(folder, SETTINGS)
    (folder / "thesis.txt").touch()
    (folder / "a state.pt").touch()
    for resume in (False, True):
        with pytest.raises(InputError, match=r"run: found 'a state\.pt', expected an unfinished"):
            check_folder(folder, resume=resume)
    run.keep({})
    run.log("")
    check_folder(folder, resume=True)
    run.remove()
    assert {path.name for path in folder.iterdir()} == {"thesis.txt", "a state.pt"}


def test_what_a_kill_leaves_goes_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    run = Run(folder, SETTINGS)
    with monkeypatch.context() as patch:
        for name in ("os.replace", "pathlib.Path.unlink"):
            patch.setattr(name, lambda *_, **__: None)
        run.finish({}, RESULT)
    (left,) = folder.iterdir()
    assert left.name != "state.pt"
    check_folder(folder, resume=True)
    run.remove()
    assert not folder.exists()


def test_an_unfinished_training_is_no_free_place(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", SETTINGS)
    check_folder(run.folder, resume=False)
    run.log("")
    with pytest.raises(InputError, match=r"run: found an unfinished training, expected none \(res"):
        check_folder(run.folder, resume=False)
    check_folder(run.folder, resume=True)


def test_other_settings(tmp_path: Path) -> None:
    Run(tmp_path, SETTINGS).finish({}, RESULT)
    message = "options or data .seed 0, now 1., expected the same"
    with pytest.raises(InputError, match=message):
        Run(tmp_path, SETTINGS | {"seed": 1})
    with pytest.raises(InputError, match="more None, now 'x'; train 'f00d', now 'cafe'"):
        Run(tmp_path, SETTINGS | {"train": "cafe", "more": "x"})
    with pytest.raises(InputError, match="train 'f00d', now None"):
        Run(tmp_path, {"seed": 0})


def save(path: Path, content: Any) -> None:
    torch.save(content, path)


class Evil:
    """Says so if it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return pytest.exit, ("a pickle was executed",)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no state"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "evil": lambda path: save(path, {"format": 5, "settings": Evil(), "results": []}),
    "evil pickle": lambda path: path.write_bytes(pickle.dumps({"settings": Evil()})),
    "list": lambda path: save(path, [1, 2]),
    "tensor": lambda path: save(path, torch.zeros(3)),
    "no settings": lambda path: save(path, {"format": 5, "results": []}),
    "no format": lambda path: save(path, {"settings": SETTINGS, "results": []}),
    "number": lambda path: save(path, {"format": 5, "settings": 5, "results": []}),
    "no results": lambda path: save(path, {"format": 5, "settings": SETTINGS}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_states(damage: str, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    training(Budget(steps=3))
    DAMAGES[damage](training.folder / "state.pt")
    expected = r"state.pt: (damaged \(|found a training (with other options|of another version))"
    with pytest.raises(InputError, match=expected):
        training(Budget(steps=3))


KEYS = ["model", "best", "optimizers", "step", "seconds", "points", "losses", "random"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("how", ["missing", "other"])
def test_states_with_parts_that_do_not_fit(
    key: str, how: str, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    training(Budget(steps=3))
    path = training.folder / "state.pt"
    content = torch.load(path)
    del content["middle"][key]
    if how == "other":
        content["middle"][key] = {"x": 1}
    save(path, content)
    with pytest.raises(InputError, match=r"state.pt: damaged \("):
        training(Budget(steps=5))


@pytest.mark.usefixtures("save_always")
def test_flipped_bytes_are_an_error_or_nothing(data: Dataset, tmp_path: Path) -> None:
    broken = start(data, tmp_path)
    broken.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        broken(Budget(steps=4))
    path = tmp_path / "state.pt"
    content = path.read_bytes()
    clean = start(data, tmp_path)
    expected = outcome(clean(Budget(steps=4)), clean.network)
    with zipfile.ZipFile(path) as archive:
        end = archive.start_dir  # what follows has no checksum
    for place in range(0, end, end // 100):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        resumed = start(data, tmp_path)
        with contextlib.suppress(InputError):
            result = resumed(Budget(steps=4))
            assert outcome(result, resumed.network) == expected, place


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Run(tmp_path / "file", SETTINGS)
    with pytest.raises(OSError, match="file"):
        Run(tmp_path / "file" / "run", SETTINGS)
