"""Makes train.tsv, dev.tsv and test.tsv from SST-2 so that dev.tsv can choose a model.

GLUE's training set holds each sentence with many of its phrases, so rows drawn at random from it
have been seen in training, inside other rows.  Here dev.tsv has whole sentences, none of which
shares its text with a row of train.tsv; test.tsv is GLUE's development set, which papers report.

    python prepare.py --train train.tsv [more.tsv] --test dev.tsv --texts texts.txt --output OUT

The inputs are GLUE's tables: a header, then ``sentence <tab> label``; and of ``--texts`` more
sentences about films, one a line, that become unlabelled.tsv: for the built-in model
``rt-polarity.neg``, ``rt-polarity.pos`` (Sentence Polarity 1.0), ``quote.tok.gt9.5000`` and
``plot.tok.gt9.5000`` (Subjectivity 1.0), in this order, in UTF-8 as NLTK's data has them.  Needs
nothing but Python.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

HEADER = "sentence\tlabel"
# A row in no other row is a whole sentence, or the longest phrase of one whose own row is missing
# (GLUE left out the neutral ones); phrases are shorter, and rarely end as sentences do.
SENTENCE_WORDS = 5
SENTENCE_ENDS = (".", "!", "?", "'")
# Fewer words that a row shares with a test sentence ("is n't funny") are English, not a leak.
LEAK_WORDS = 4
# A text that shares as many words in a row with a sentence may be that sentence, spelled otherwise.
SHARED_WORDS = 5


class Row(NamedTuple):
    text: str  # without white space around it
    label: str

    @property
    def key(self) -> str:
        """The text as it is compared: letters and digits only."""
        return re.sub("[^a-z0-9]", "", self.text.lower())

    @property
    def words(self) -> int:
        return sum(any(c.isalnum() for c in word) for word in self.text.split())


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    try:
        rows = [row for path in options.train for row in read(path)]
        test = read(options.test)
        lines = [line for path in options.texts for line in read_lines(path)]
        train, dev = split(rows, test, count=options.held_out, seed=options.seed)
        options.output.mkdir(parents=True, exist_ok=True)
        for name, table in (("train", train), ("dev", dev), ("test", test)):
            write(options.output / f"{name}.tsv", table)
        unlabelled = options.output / "unlabelled.tsv"
        unlabelled.unlink(missing_ok=True)  # what another call left there may be of its dev.tsv
        if options.texts:
            write_texts(unlabelled, more_texts(lines, train, [*dev, *test]))
    except (OSError, ValueError) as error:
        sys.exit(f"prepare.py: {error}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Split SST-2 by whole sentences.")
    parser.add_argument("--train", nargs="+", type=Path, required=True, metavar="TSV")
    parser.add_argument("--test", type=Path, required=True, metavar="TSV")
    parser.add_argument("--texts", nargs="+", type=Path, default=[], metavar="TXT")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--held-out", type=int, default=700, help="rows of dev.tsv")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def read(path: Path) -> list[Row]:
    """Rows of a table of GLUE, in its order.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a table.
    """
    lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").split("\n")
    if lines[0] != HEADER:
        raise ValueError(f"{path}: found first line {lines[0]!r}, expected {HEADER!r}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line:
            continue
        columns = line.split("\t")
        if len(columns) != 2 or columns[1] not in ("0", "1"):
            found = f"{path}, line {number}: found {line[:80]!r}"
            raise ValueError(f"{found}, expected a sentence, a tab and 0 or 1")
        rows.append(Row(columns[0].strip(), columns[1]))
    return rows


def read_lines(path: Path) -> list[str]:
    """Texts of a file, one a line.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not UTF-8, or a text holds a tab.
    """
    lines = []
    for number, content in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            lines.append(content.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}, expected UTF-8") from None
        if "\t" in lines[-1]:
            found = f"{path}, line {number}: found a tab in {lines[-1][:80]!r}"
            raise ValueError(f"{found}, expected a text and nothing else")
    return [line for line in lines if line]


def split(
    rows: Sequence[Row], test: Sequence[Row], *, count: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and `count` whole sentences to choose a model by; prints what is left out.

    Raises:
        ValueError: There are fewer whole sentences than that.
    """
    note("rows of the training set", len(rows))
    rows = agreeing(rows)
    rows = without_test(rows, test)
    dev = hold_out(rows, {row.key for row in test}, count, seed)
    train = without_dev(rows, dev)
    note("rows of train.tsv", len(train))
    note("rows of dev.tsv", len(dev))
    note("rows of test.tsv", len(test))
    return train, dev


def agreeing(rows: Sequence[Row]) -> list[Row]:
    """One row for each text and label; where labels of one text differ, those of the majority."""
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        labels[row.key][row.label] += 1
    kept = [row for row in rows if row.key and 2 * labels[row.key][row.label] > total(row, labels)]
    torn = sum(len(found) > 1 for found in labels.values())
    empty = sum(not row.key for row in rows)
    note("  without a letter or digit, removed", empty)
    note(
        f"  of {torn} texts with both labels: the smaller or equal part, removed",
        len(rows) - empty - len(kept),
    )
    distinct = list(dict.fromkeys(kept))
    note("  the same text again, removed", len(kept) - len(distinct))
    return distinct


def total(row: Row, labels: dict[str, Counter[str]]) -> int:
    return sum(labels[row.key].values())


def without_test(rows: Sequence[Row], test: Sequence[Row]) -> list[Row]:
    """Rows that are no test sentence, hold no long one, and are no long part of one."""
    sentences = {row.key for row in test}
    keys = {row.key for row in rows}
    holding = containing(keys, {row.key for row in test if row.words >= LEAK_WORDS}) - sentences
    parts = contained(keys, sentences) - sentences
    near = [row for row in rows if row.key in parts]
    long = {row for row in near if row.words >= LEAK_WORDS}
    note("  that are a test sentence, removed", sum(row.key in sentences for row in rows))
    words = f"{LEAK_WORDS} words or more"
    note(f"  that contain one of {words}, removed", sum(row.key in holding for row in rows))
    note(f"  of {words} inside one, removed", len(long))
    note("  of fewer words inside one, kept", len(near) - len(long))
    gone = sentences | holding | {row.key for row in long}
    return [row for row in rows if row.key not in gone]


def hold_out(rows: Sequence[Row], test: Collection[str], count: int, seed: int) -> list[Row]:
    """Whole sentences: rows that stand in no other row, nor in the test set, chosen by hash.

    Raises:
        ValueError: There are fewer than `count`.
    """
    long = {row.key for row in rows if row.words >= SENTENCE_WORDS}
    ended = {row.key for row in rows if row.text.endswith(SENTENCE_ENDS)}
    whole = (maximal(long) & ended) - contained(long, test)
    note(f"whole sentences of {SENTENCE_WORDS} words or more", len(whole))
    if len(whole) < count:
        raise ValueError(f"found {len(whole)} whole sentences, expected at least {count}")
    chosen = sorted(whole, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    wanted = {*chosen[:count]}
    # Two spellings of one sentence are one example.
    return list({row.key: row for row in rows if row.key in wanted}.values())


def without_dev(rows: Sequence[Row], dev: Sequence[Row]) -> list[Row]:
    """Rows that neither hold nor stand in a sentence of dev, single words included."""
    keys, sentences = {row.key for row in rows}, {row.key for row in dev}
    near = containing(keys, sentences) | contained(keys, sentences)
    kept = [row for row in rows if row.key not in near]
    short = sum(row.key in near and row.words < LEAK_WORDS for row in rows)
    note("rows that are, contain or stand in a sentence of dev.tsv, removed", len(rows) - len(kept))
    note(f"  of them with fewer than {LEAK_WORDS} words", short)
    return kept


def more_texts(lines: Sequence[str], train: Sequence[Row], held_out: Sequence[Row]) -> list[str]:
    """Texts that are in no other table and not near a sentence of dev or test."""
    note("more texts", len(lines))
    rows = [row for row in (Row(line, "") for line in lines) if row.key]
    known = {row.key for row in train}
    new = list({row.key: row for row in rows if row.key not in known}.values())
    what = "in train.tsv, there twice, or without a letter or digit, removed"
    note(f"  {what}", len(lines) - len(new))
    keys = {row.key for row in new}
    sentences = {row.key for row in held_out}
    long = {row.key for row in held_out if row.words >= LEAK_WORDS}
    near = containing(keys, long) | contained(keys, sentences)
    runs = {run for row in held_out for run in word_runs(row)}
    kept = [row for row in new if row.key not in near and runs.isdisjoint(word_runs(row))]
    words = f"{SHARED_WORDS} words in a row"
    note(f"  near a sentence of dev.tsv or test.tsv ({words}), removed", len(new) - len(kept))
    note("rows of unlabelled.tsv", len(kept))
    return [row.text for row in kept]


def word_runs(row: Row) -> set[tuple[str, ...]]:
    words = re.findall("[a-z0-9]+", row.text.lower())
    return {tuple(words[i : i + SHARED_WORDS]) for i in range(len(words) - SHARED_WORDS + 1)}


def contained(keys: Iterable[str], sentences: Iterable[str]) -> set[str]:
    """Keys that are in, or equal to, a sentence."""
    haystack = "\n".join(sorted(sentences))
    return {key for key in keys if key in haystack}


def containing(keys: Iterable[str], sentences: Iterable[str]) -> set[str]:
    """Keys that a sentence is in, or equal to."""
    ordered = sorted(keys)
    haystack = "\n".join(ordered)
    starts = [0, *accumulate(len(key) + 1 for key in ordered)]
    found = set()
    for sentence in {*sentences} - {""}:
        position = haystack.find(sentence)
        while position >= 0:
            index = bisect_right(starts, position) - 1
            found.add(ordered[index])
            position = haystack.find(sentence, starts[index + 1])
    return found


def maximal(keys: Iterable[str]) -> set[str]:
    """Keys that are in no other key."""
    ordered = sorted(keys, key=lambda key: (-len(key), key))
    haystack = "\n".join(ordered)
    found, start = set(), 0
    for key in ordered:
        if haystack.find(key, 0, start) < 0:
            found.add(key)
        start += len(key) + 1
    return found


def write(path: Path, rows: Iterable[Row]) -> None:
    write_lines(path, [HEADER, *(f"{row.text}\t{row.label}" for row in rows)])


def write_texts(path: Path, texts: Iterable[str]) -> None:
    write_lines(path, [HEADER.split("\t")[0], *texts])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def note(what: str, count: int) -> None:
    print(f"{count:7,} {what}")


if __name__ == "__main__":
    main()
