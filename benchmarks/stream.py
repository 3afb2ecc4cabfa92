"""What text costs beside the engine: ``python benchmarks/stream.py`` prints it as JSON.

`predict` on 10,000 sentences, against the engine alone on token ids that are ready; and one
sentence at a time.  The words of the sentences are drawn from the vocabulary by Zipf's law, so that
some are new until the end.  Chunks of both take turns, so that a change of the machine meets both.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import models
import numpy as np

import bitinfer

_SENTENCES, _CHUNK, _BATCH = 10_000, 500, 32
_SINGLES = 2000
_SENTENCE = "the film is a warm and deeply moving story about two brothers who learn to be friends"


def measure() -> list[dict[str, Any]]:
    """Per model: seconds of `predict` and of the engine alone, and of one sentence."""
    texts = _sentences([word for word in models.builtin_vocabulary() if word.isalpha()])
    with tempfile.TemporaryDirectory() as folder:
        paths = {"sst2": "sst2", "base": str(models.text_model(Path(folder)))}
        return [{"model": name, **_compare(path, texts)} for name, path in paths.items()]


def _sentences(words: list[str]) -> list[str]:
    random = np.random.RandomState(1)
    lengths = random.randint(5, 35, _SENTENCES)
    drawn = (random.zipf(1.3, lengths.sum()) - 1) % len(words)
    return [
        " ".join(words[i] for i in part) + "." for part in np.split(drawn, np.cumsum(lengths)[:-1])
    ]


def _compare(path: str, texts: list[str]) -> dict[str, Any]:
    model = bitinfer.load(path)
    # Its table of words must not have met the words before `predict` does.
    other = bitinfer.load(path, num_threads=1)._tokenizer
    model.predict(_SENTENCE)
    ready, whole = 0.0, 0.0
    for index, first in enumerate(range(0, len(texts), _CHUNK)):
        chunk = texts[first : first + _CHUNK]
        batches = [
            other.encode(
                [(text, None) for text in chunk[i : i + _BATCH]],
                max_length=model.config["positions"],
            )
            for i in range(0, len(chunk), _BATCH)
        ]
        for turn in (0, 1):  # who comes first alternates
            start = time.perf_counter()
            if (index + turn) % 2 == 0:
                model.predict(chunk, batch_size=_BATCH)
                whole += time.perf_counter() - start
            else:
                for batch in batches:
                    model._run(batch, hidden=False)
                ready += time.perf_counter() - start
    return {
        "sentences": len(texts),
        "threads": model.info()["num_threads"],
        "predict": whole,
        "engine": ready,
        "single": _single(model),
    }


def _single(model: bitinfer.BitModel) -> dict[str, float]:
    tokens = len(model._tokenizer.encode([(_SENTENCE, None)], max_length=128).ids)
    seconds = []
    for _ in range(_SINGLES):
        start = time.perf_counter()
        model.predict(_SENTENCE)
        seconds.append(time.perf_counter() - start)
    return {"tokens": tokens, "median": statistics.median(seconds), "best": min(seconds)}


if __name__ == "__main__":
    print(json.dumps(measure()))
