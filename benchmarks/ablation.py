"""What the parts of the training method are worth: students trained with and without each.

    python benchmarks/ablation.py TEACHER TRAIN TEST

Every arm differs from the first in one thing, has the same teacher, data and number of steps, and
is trained with several seeds, which order the examples.  There is no choice of the best step: what
counts is the student at the end.  Results are added to ``ablation.json`` as they come; those that
are there already are not made again.  A process with one thread for each CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitinfer.files import write_file

if TYPE_CHECKING:
    from bitinfer.train.session import Session
    from bitinfer.train.student import Student

RESULTS = Path(__file__).with_name("ablation.json")


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    bits: tuple[str, ...] = ("1-1-2", "1-1-1")
    two_set: bool = True
    fixed_steps: bool = False
    vector_rate: float = 1.0


ARMS = {
    "multi-distilled, two-set, learned steps": Arm(),
    "one set of codes": Arm(two_set=False),
    "fixed steps": Arm(fixed_steps=True),
    "single step, straight to 1-1-1": Arm(bits=("1-1-1",)),
    "vectors at four times the rate": Arm(vector_rate=4.0),
}


def main() -> None:
    """Train what is missing."""
    options = _options()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"setup": {}, "runs": []}
    setup = _setup(options)
    if found["setup"] not in ({}, setup):
        raise SystemExit(f"{RESULTS}: found runs of another setup; delete it, or run that")
    found["setup"] = setup
    done = {(run["arm"], run["seed"]) for run in found["runs"]}
    wanted = [(arm, seed) for seed in range(options.seeds) for arm in ARMS]
    # A forked child could not use PyTorch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        missing = [each for each in wanted if each not in done]
        futures = [pool.submit(_train, arm, seed, options) for arm, seed in missing]
        for future in as_completed(futures):
            found["runs"].append(future.result())
            found["runs"].sort(key=lambda run: (run["seed"], list(ARMS).index(run["arm"])))
            write_file(RESULTS, f"{json.dumps(found, indent=2)}\n".encode(), overwrite=True)
            print(future.result(), flush=True)


def _train(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    from bitinfer.train.distillation import train_stages

    arm = ARMS[name]
    with _ready(options, seed, arm) as (ready, teacher):
        _, results = train_stages(_changed(arm, teacher), ready)
        return {
            "arm": name,
            "seed": seed,
            "bits": list(arm.bits),
            "two_set": arm.two_set,
            "fixed_steps": arm.fixed_steps,
            "vector_rate": arm.vector_rate,
            "row_scales": True,
            "steps": options.steps,
            "seconds": round(sum(result.seconds for result in results), 1),
            "value": results[-1].points[-1].value,
            "count": len(ready.dev),
        }


def _changed(arm: Arm, teacher: Student) -> Student:
    """The teacher as the first of a line of students that lack what the arm leaves out."""
    from bitinfer.train.student import Quantizer, Student

    class Changed(Student):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            for each in self.modules():
                if isinstance(each, Quantizer) and each.codes is not None and not arm.two_set:
                    each.codes = each.codes._replace(signed=True)
            for each in self.parameters():
                each.requires_grad = not (arm.fixed_steps and each.ndim == 0)

    changed = Changed(teacher.config, teacher.bits, dtype=teacher.numerics.dtype)
    changed.load_state_dict(teacher.state_dict())
    return changed


@contextlib.contextmanager
def _ready(options: argparse.Namespace, seed: int, arm: Arm) -> Iterator[tuple[Session, Student]]:
    """The session of a run, and its teacher."""
    from bitinfer.train.data import read_tables
    from bitinfer.train.options import DistillOptions
    from bitinfer.train.session import reserved, session
    from bitinfer.train.teacher import as_student, open_folder, read_bert

    with tempfile.TemporaryDirectory() as folder:
        given = DistillOptions(
            options.teacher,
            options.train,
            options.test,
            f"{folder}/student",
            bits=arm.bits,
            steps=options.steps,
            vector_rate=arm.vector_rate,
            batch_size=32,
            learning_rate=options.rate,
            seed=seed,
            evaluate_every=options.steps,
            threads=1,
            show_progress_bar=False,
        )
        teacher = open_folder(options.teacher)
        with (
            reserved(given) as partial,
            session(teacher, given, read_tables(given), partial) as ready,
        ):
            model = read_bert(teacher, outputs=ready.outputs, head=True)
            yield ready, as_student(model, dtype=ready.dtype)


def _setup(options: argparse.Namespace) -> dict[str, Any]:
    from bitinfer.diagnostics import cpu_name, package_version
    from bitinfer.train.session import measure

    with _ready(options, 0, next(iter(ARMS.values()))) as (ready, teacher):
        value = measure(teacher.logits, ready.dev, ready.device)
        sizes = teacher.config
        return {
            "description": (
                f"{sizes.layers} layers x {sizes.hidden}, {sizes.labels} classes, "
                f"{len(ready.train):,} training texts, {options.steps} steps of 32 at a rate of "
                f"{options.rate:g}, measured once "
                f"on {len(ready.dev):,} texts that had no part in training"
            ),
            "teacher": value,
            "machine": f"{cpu_name()}, {os.cpu_count()} CPUs, a run on each",
            "versions": {name: package_version(name) for name in ("bitinfer", "torch")},
        }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", help="folder of a float model with a head, as of finetune")
    parser.add_argument("train", help="labelled texts to learn")
    parser.add_argument("test", help="labelled texts to measure on")
    parser.add_argument("--steps", type=int, default=300, help="of all students of an arm: 300")
    parser.add_argument("--seeds", type=int, default=3, help="default 3")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate: default 0.001")
    return parser.parse_args()


if __name__ == "__main__":
    main()
