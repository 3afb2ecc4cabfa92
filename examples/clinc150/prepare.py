"""Makes train.tsv, dev.tsv and test.tsv from CLINC150: 150 intents, or the 10 domains they form.

    python prepare.py --target intents --input FOLDER --output OUT

FOLDER holds ``data_full.json`` and ``domains.json`` as the authors publish them (CC BY 3.0).  Their
split stands: only the queries that are in two of its parts, spelling aside, stay in the later one
alone.  Queries out of scope are left out.  Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

HEADER = "text\tlabel"
# Name of the table, name of the part in data_full.json.
PARTS = {"train": "train", "dev": "val", "test": "test"}

Rows = list[tuple[str, str]]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    try:
        tables = read(options.input / "data_full.json")
        domains = read_domains(options.input / "domains.json")
        tables = disjoint(tables)
        options.output.mkdir(parents=True, exist_ok=True)
        for name, rows in tables.items():
            if options.target == "domains":
                rows = relabelled(rows, domains)
            write(options.output / f"{name}.tsv", rows)
            labels = len({label for _, label in rows})
            print(f"{len(rows):7,} rows of {name}.tsv, {labels} labels")
    except (OSError, ValueError) as error:
        sys.exit(f"prepare.py: {error}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Tables of CLINC150.")
    parser.add_argument("--target", choices=("intents", "domains"), required=True)
    parser.add_argument("--input", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    return parser.parse_args(arguments)


def read(path: Path) -> dict[str, Rows]:
    """The queries and intents of each part.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or not that of CLINC150.
    """
    data = read_object(path)
    tables = {}
    for name, part in PARTS.items():
        if not isinstance(data.get(part), list):
            raise ValueError(f"{path}: found no list {part!r}")
        tables[name] = [query(row, f"{path}, {part}[{i}]") for i, row in enumerate(data[part])]
    return tables


def read_object(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise ValueError(f"{path}: found a {type(data).__name__}, expected an object")
    return data


def query(row: object, where: str) -> tuple[str, str]:
    match row:
        case [str(text), str(intent)]:
            return " ".join(text.split()), intent
    raise ValueError(f"{where}: found {row!r}, expected [query, intent]")


def read_domains(path: Path) -> dict[str, str]:
    """The domain of each intent.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or an intent is in two domains.
    """
    domains: dict[str, str] = {}
    for domain, intents in read_object(path).items():
        for intent in intents:
            if intent in domains:
                raise ValueError(f"{path}: found {intent!r} in {domains[intent]!r} and {domain!r}")
            domains[intent] = domain
    return domains


def relabelled(rows: Rows, domains: Mapping[str, str]) -> Rows:
    unknown = sorted({intent for _, intent in rows} - {*domains})
    if unknown:
        raise ValueError(f"domains.json: found no domain of {', '.join(unknown)}")
    return [(text, domains[intent]) for text, intent in rows]


def disjoint(tables: Mapping[str, Rows]) -> dict[str, Rows]:
    """The same without queries of train that dev or test repeats, or of dev that test repeats."""
    test = keys(tables["test"])
    dev = without(tables["dev"], test, "dev")
    train = without(tables["train"], keys(tables["dev"]) | test, "train")
    return {"train": train, "dev": dev, "test": tables["test"]}


def without(rows: Rows, others: Collection[str], name: str) -> Rows:
    kept = [(text, intent) for text, intent in rows if key(text) not in others]
    print(f"{len(rows) - len(kept):7,} rows of {name} that a later part repeats, removed")
    return kept


def keys(rows: Rows) -> set[str]:
    return {key(text) for text, _ in rows}


def key(text: str) -> str:
    """The text as it is compared: letters and digits only, if it has any."""
    return re.sub("[^a-z0-9]", "", text.lower()) or text


def write(path: Path, rows: Rows) -> None:
    lines = [HEADER, *(f"{text}\t{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
