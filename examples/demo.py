"""Labels a dozen sentences with the built-in model and shows what that costs; needs no PyTorch."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

STARTED = time.perf_counter()

import bitinfer  # noqa: E402  # importing it is part of what is timed

# What each sentence means, and the sentence.  Those that the model misreads stay.
SENTENCES = [
    ("positive", "A warm, funny film with a heart as big as its cast."),
    ("positive", "The best documentary about bees you will ever see."),
    ("positive", "Quiet, patient and deeply moving."),
    ("positive", "It is hard to imagine a more tender portrait of old age."),
    ("positive", "Every scene with the grandmother is worth the ticket."),
    ("positive", "Not a bad film at all, and now and then a great one."),
    ("negative", "A clumsy, noisy sequel that nobody asked for."),
    ("negative", "Gorgeous pictures cannot hide an empty script."),
    ("negative", "I checked my watch four times before the first hour was over."),
    ("negative", "It wants to be a thriller and ends up as a lullaby."),
    ("negative", "Predictable from the first frame to the last."),
    ("negative", "The soundtrack is the only thing worth remembering."),
]
TEXTS = [text for _, text in SENTENCES]
BUILTIN = Path(bitinfer.__file__).parent / "builtin"
PASSES = 30


def main() -> None:
    model = bitinfer.load("sst2")
    predictions = model.predict(TEXTS)
    start = time.perf_counter() - STARTED
    show_model(model)
    show_labels(predictions)
    show_costs(model, start)
    show_next_steps()


def show_model(model: bitinfer.BitModel) -> None:
    info, config = model.info(), model.config
    count = info["num_threads"]
    threads = "1 thread" if count == 1 else f"{count} threads"
    print(f"bitinfer {bitinfer.__version__}, {info['isa']}, {threads}")
    size = f"{config['layers']} layers x {config['hidden']}"
    print(f"sst2: a BERT of {size} with 1-bit weights, embeddings and activations\n")


def show_labels(predictions: list[bitinfer.Prediction]) -> None:
    right = 0
    for (meant, text), found in zip(SENTENCES, predictions, strict=True):
        right += found.label == meant
        note = "" if found.label == meant else f"  <- meant {meant}"
        print(f"  {found.label} {found.score:.2f}  {text}{note}")
    print(f"\n  {right} of {len(SENTENCES)} as meant (SST-2 development set: {accuracy()})\n")


def accuracy() -> str:
    """What the card of the model says about the test set: percent, with its standard error."""
    card = (BUILTIN / "sst2.md").read_text("utf-8")
    found = re.search(r"^Test set, .*: accuracy \*\*(.+?)\*\*", card, re.MULTILINE)
    return found[1] if found else "see its card"


def show_costs(model: bitinfer.BitModel, start: float) -> None:
    one = fastest(lambda: [model.predict(text) for text in TEXTS]) / len(TEXTS)
    batch = fastest(lambda: model.predict(TEXTS)) / len(TEXTS)
    size = (BUILTIN / "sst2.safetensors").stat().st_size
    float_size = model.info()["report"]["checkpoint_bytes"]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts kilobytes
    print(f"  time    {1e3 * one:.2f} ms a sentence one by one, {1e3 * batch:.2f} ms in a batch")
    print(f"  file    {size / 1e6:.1f} MB with vocabulary; {float_size / 1e6:.0f} MB in float32")
    print(f"  memory  {peak / 1e6:.0f} MB at most, Python and all included")
    print(f"  start   {start:.2f} s from import to the labels above\n")


def fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls: other work on the machine only ever adds to it."""
    seconds = []
    for _ in range(PASSES):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def show_next_steps() -> None:
    print("Your own BiT checkpoint (to read it, install PyTorch):")
    print("  bitinfer convert path/to/checkpoint model.safetensors --labels negative,positive")
    print("  bitinfer predict model.safetensors 'some text'")


if __name__ == "__main__":
    main()
