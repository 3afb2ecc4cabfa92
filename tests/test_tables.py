"""Labelled texts in files: tab-separated, CSV, JSON lines, and files that nobody expects."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitinfer.data.columns import Columns
from bitinfer.data.tables import LabelledTexts, read_rows
from bitinfer.errors import InputError, InputTypeError
from bitinfer.heads.classify import Classify
from bitinfer.heads.regress import Regress

ENDINGS = [".tsv", ".csv", ".jsonl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def read(folder: Path, name: str, content: str | bytes, **columns: str) -> LabelledTexts:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_rows(path, Columns(**columns))


def written(ending: str, rows: list[dict[str, str]]) -> str:
    """The rows in the form of that ending; the columns are those of the first."""
    if ending == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    if ending == ".csv":
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()
    return "".join("\t".join(row) + "\n" for row in [list(rows[0]), *(r.values() for r in rows)])


# ---- what all have in common


PLAIN = LabelledTexts([("a", None), ("b", None)], ["1", "0"])
PAIRS = LabelledTexts([("a", "b")], ["2"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_columns(folder: Path, ending: str) -> None:
    def table(*rows: dict[str, str], **columns: str) -> LabelledTexts:
        return read(folder, f"t{ending}", written(ending, list(rows)), **columns)

    assert table({"sentence": "a", "label": "1"}, {"sentence": "b", "label": "0"}) == PLAIN
    assert (
        table({"label": "1", "x": "", "text": "a"}, {"label": "0", "x": "", "text": "b"}) == PLAIN
    )
    for first, second in [
        *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question", "sentence")),
        *(("question1", "question2"), ("text", "text_pair")),
    ]:
        assert table({first: "a", second: "b", "label": "2"}) == PAIRS
    other = {"x": "2", "y": "a", "z": "b"}
    assert table(other, text="y", pair="z", label="x") == PAIRS
    assert table(other, text="y", label="x").texts == [("a", None)]
    assert table({"text": "a", "text_pair": "b", "intent": "2"}, label="intent") == PAIRS
    assert table({"text": "", "label": " 2 "}) == LabelledTexts([("", None)], ["2"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_texts_need_no_labels(folder: Path, ending: str) -> None:
    def texts(row: dict[str, str], **columns: str) -> list[tuple[str, str | None]]:
        path = folder / f"t{ending}"
        path.write_text(written(ending, [row]))
        return read_rows(path, Columns(**columns), labelled=False).texts

    assert texts({"sentence": "a"}) == [("a", None)]
    assert texts({"sentence": "a", "label": ""}) == [("a", None)]
    assert texts({"premise": "a", "hypothesis": "b"}) == [("a", "b")]
    assert texts({"x": "a", "y": "b"}, text="y", pair="x") == [("b", "a")]
    with pytest.raises(InputError, match=rf"t\{ending}: found columns x; expected 'sentence'"):
        texts({"x": "a"})
    # The name of the label tells that the other is a name too.
    assert texts({"0": "b", "1": "a"}, text="1", label="kind") == [("a", None)]
    if ending != ".jsonl":
        assert texts({"x": "a"}, text="1") == [("x", None), ("a", None)]
        assert texts({"x": "a"}, text="1", label="2") == [("x", None), ("a", None)]
        with pytest.raises(InputError, match="found no number of the text column"):
            texts({"x": "a"}, pair="1")
    (folder / f"t{ending}").write_text("")
    with pytest.raises(InputError, match=rf"t\{ending}: found no rows"):
        read_rows(folder / f"t{ending}", labelled=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", "sentence\tlabel\na\t1\nb\t0\n"),
        ("t.TXT", "sentence\tlabel\na\t1\nb\t0"),
        ("t", "label\tsentence\textra\n1\ta\tx\n0\tb\n"),
        ("t.csv", "sentence,label\na,1\nb,0\n"),
        ("t.CSV", 'label,"sentence"\n"1","a"\n0,b'),
        ("t.jsonl", '{"sentence": "a", "label": "1"}\n{"label": "0", "sentence": "b"}\n'),
        ("t.json-lines", '{"sentence":"a","label":1}\n{"sentence":"b","label":0}'),
        (
            "t.ndjson",
            ' {"sentence":"a","label":1, "x": [{"y": null}]} \n{"sentence":"b","label":0}',
        ),
    ],
)
def test_forms(folder: Path, name: str, content: str) -> None:
    assert read(folder, name, content) == PLAIN
    assert read(folder, name, "\ufeff" + content) == PLAIN
    assert read(folder, name, content.replace("\n", "\r\n")) == PLAIN
    assert read(folder, name, "\n" + content.replace("\n", "\n\n") + "\n\n") == PLAIN


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found no "),
        (b"\n\r\n\n", "found no "),
        (b"\xff\n", "line 1: not UTF-8"),
        (b"\xef\xbb\xbfa\n\nb\xc3\n", "line 3: not UTF-8"),
        ('{"text": "a"}\n'.encode("utf-16"), "line 1: not UTF-8"),
        ('{"text": "a"}\n'.encode("utf-16-le"), "line 1: found a NUL character"),
        (b"text\tlabel\na\0\t1\n", "line 2: found a NUL character"),
        ("sentence\ufeff\tlabel\n".encode("latin-1", "replace") + b"\x80", "line 2: not UTF-8"),
    ],
)
def test_not_text(folder: Path, ending: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"t\{ending}(: |, ){message}"):
        read(folder, f"t{ending}", content)


@pytest.mark.parametrize("ending", ENDINGS)
def test_very_long_lines(folder: Path, ending: str) -> None:
    text = "word " * 20_000
    rows = [{"text": text, "label": "1"}, {"text": "b", "label": "0"}]
    assert read(folder, f"t{ending}", written(ending, rows)).texts == [(text, None), ("b", None)]


def test_files_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_rows(folder / "none.csv")
    with pytest.raises(IsADirectoryError):
        read_rows(folder)


# Whatever a line of tabs can hold; JSON and CSV hold more.
in_lines = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\r\n"))
anything = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
labels = anything.map(str.strip).filter(bool)


@given(
    rows=st.lists(st.tuples(anything, anything, labels), min_size=1),
    # Python's writer would not quote what is only for others the end of a line.
    style=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n")]),
)
def test_csv_holds_any_text(
    folder: Path, rows: list[tuple[str, str, str]], style: tuple[Any, str]
) -> None:
    quoting, end = style
    file = io.StringIO()
    writer = csv.writer(file, quoting=quoting, lineterminator=end)
    writer.writerows([("text", "text_pair", "label"), *rows])
    expected = LabelledTexts([(a, b) for a, b, _ in rows], [label for *_, label in rows])
    assert read(folder, "any.csv", file.getvalue()) == expected


@given(
    rows=st.lists(st.tuples(anything, st.none() | anything, labels), min_size=1),
    ascii_only=st.booleans(),
)
def test_json_holds_any_text(
    folder: Path, rows: list[tuple[str, str | None, str]], ascii_only: bool
) -> None:
    objects = [{"text": a, "text_pair": b, "label": label, "more": [a]} for a, b, label in rows]
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in objects]
    expected = LabelledTexts([(a, b) for a, b, _ in rows], [label for *_, label in rows])
    assert read(folder, "any.jsonl", "\n".join(lines)) == expected


@given(rows=st.lists(st.tuples(in_lines, in_lines.map(str.strip).filter(bool)), min_size=1))
def test_tabs_hold_any_line(folder: Path, rows: list[tuple[str, str]]) -> None:
    content = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)
    expected = LabelledTexts([(text, None) for text, _ in rows], [label for _, label in rows])
    assert read(folder, "any.tsv", content) == expected


@given(content=st.binary() | anything.map(str.encode), ending=st.sampled_from(ENDINGS))
def test_no_file_is_worse_than_an_error(folder: Path, content: bytes, ending: str) -> None:
    for columns in ({}, {"text": "1", "label": "1"}):
        with contextlib.suppress(InputError):
            table = read(folder, f"noise{ending}", content, **columns)
            assert len(table.texts) == len(table.labels) > 0


# ---- tabs


def test_columns_by_number(folder: Path) -> None:
    for name, content in (("t.tsv", "2\ta\tb\n"), ("t.csv", "2,a,b\n")):
        assert read(folder, name, content, text="2", pair="3", label="1") == PAIRS
    # Quotes mean nothing between tabs.
    quoted = read(folder, "t.tsv", '"a\t1\nb""\t0\n', text="1", label="2")
    assert quoted.texts == [('"a', None), ('b""', None)]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "t.tsv: found no rows"),
        ("", {"text": "1", "label": "2"}, "t.tsv: found no rows"),
        ("sentence\tlabel\n", {}, "t.tsv: found no rows"),
        ("x\tlabel\na\t1\n", {}, "t.tsv: found columns x, label; expected 'sentence'"),
        ("sentence\tx\na\t1\n", {}, "t.tsv: found columns sentence, x; expected 'label'"),
        ("text\ttext\tlabel\n\n\t", {}, "found columns text, text, label; expected 'text' once"),
        ("text\tlabel\tlabel\n\n\t", {}, "found columns text, label, label; expected 'label' once"),
        ("sentence\tlabel\n\na\n", {}, "t.tsv, line 3: found columns sentence; expected 'label'"),
        ("sentence\tlabel\na\t \n", {}, "t.tsv, line 2, label: found an empty label"),
        ("a\t1\n", {"text": "3", "label": "1"}, "found columns 1, 2; expected '3'"),
        ("a\t1\n", {"text": "0", "label": "1"}, "expected '0'"),
        ("a\t1\n", {"text": "1"}, "found no number of the label column"),
        ("a\t1\n", {"label": "1"}, "found no number of the text column"),
        ("a\t1\nb\t2\n", {"text": "1", "label": "1st"}, "found columns a, 1; expected '1st'"),
    ],
)
def test_bad_tabs(folder: Path, content: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read(folder, "t.tsv", content, **options)


def test_same_name_of_columns_that_are_not_read(folder: Path) -> None:
    assert read(folder, "t.tsv", "x\tx\tsentence\tlabel\n\t\ta\t1\n\t\tb\t0\n") == PLAIN


# ---- CSV


def test_csv_quoting(folder: Path) -> None:
    content = 'text,label\r\n"a, ""b""\nc\r\nd",1\r\n\r\n"",0\r\ne"f,2\r\n " g",3\r\n'
    table = read(folder, "t.csv", content)
    texts = ['a, "b"\nc\r\nd', "", 'e"f', ' " g"']
    assert table == LabelledTexts([(text, None) for text in texts], ["1", "0", "2", "3"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "t.csv: found no rows"),
        ("text;label\na;1\n", "t.csv: found columns text;label; expected 'sentence'"),
        ("text,label,label\na,1,1\n", "expected 'label' once"),
        ('text,label\n"a\nb",1\n\nHello, world,1\n', "t.csv, line 5: found 3 columns, expected 2"),
        ("text,label\na,1,\n", "t.csv, line 2: found 3 columns, expected 2 as in the first row"),
        ("text,label\na\n", "t.csv, line 2: found 1 columns, expected 2"),
        ('text,label\n""\n', "t.csv, line 2: found 1 columns, expected 2"),
        ("text,label\na,\n", "t.csv, line 2, label: found an empty label"),
        ('text,label\na,1\n"b" c,1\n', "t.csv, line 3: ',' expected after '\"'; expected CSV"),
        ('text,label\na,1\n"b,1\nc,1\n', "t.csv, line 3: unexpected end of data; expected CSV"),
        ("text,label\n" + "a" * 200_000 + ",1\n", "t.csv, line 2: field larger than field limit"),
    ],
)
def test_bad_csv(folder: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read(folder, "t.csv", content)


def test_numbered_csv_rows_are_as_long_as_the_first(folder: Path) -> None:
    with pytest.raises(InputError, match="line 2: found 3 columns, expected 2"):
        read(folder, "t.csv", "a,1\nb,c,1\n", text="1", label="2")


# ---- JSON


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        *((1, "1"), (0, "0"), (-1, "-1"), (10**30, str(10**30))),
        *((1.0, "1"), (-0.0, "0"), (2.5, "2.5"), (1e-3, "0.001"), (1e300, "1e+300")),
        *(("1", "1"), ("1.0", "1.0"), (" yes\n", "yes"), ("true", "true"), ("é", "é")),
    ],
)
def test_json_labels(folder: Path, label: float | str, expected: str) -> None:
    content = json.dumps({"text": "a", "label": label})
    assert read(folder, "t.jsonl", content).labels == [expected]


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60))
def test_json_numbers_keep_their_value(folder: Path, number: float) -> None:
    content = json.dumps({"text": "a", "label": number})
    assert [float(each) for each in read(folder, "t.jsonl", content).labels] == [float(number)]


def test_json_escapes(folder: Path) -> None:
    content = r'{"text": "\ud83d\ude00\n\t\u0000\u2028", "label": 1}'
    assert read(folder, "t.jsonl", content).texts == [("😀\n\t\0\u2028", None)]
    # Such characters end no line, escaped or not.
    assert (
        read(folder, "t.jsonl", '{"text": "a\u2028b\x85", "label": 1}').texts[0][0]
        == "a\u2028b\x85"
    )


def one(**values: Any) -> str:
    return json.dumps({"text": "a", "label": 1} | values)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ", column 2: "),
        ("nothing", ", column 1: Expecting value; expected a JSON object"),
        ("{} {}", ", column 4: Extra data; "),
        ('{"text": "a\tb"}', ", column 12: Invalid control character"),
        ("[1, 2]", "found [1, 2], expected a JSON object"),
        ("null", "found null, expected a JSON object"),
        ("true", "found true, expected a JSON object"),
        ('"text"', "found 'text', expected a JSON object"),
        ('{"text": "a", "label": NaN}', "label: found nan, expected a string or a number"),
        ('{"text": "a", "label": -Infinity}', "label: found -inf, expected a string or a number"),
        ('{"text": "a", "label": 1, "text": "b"}', "found the key 'text' twice"),
        ('{"text": "a", "label": 1e400}', "label: found inf, expected a string or a number"),
        ("[" * 200_000, "expected a JSON object"),
        ('{"text": "a", "label": ' + "9" * 5000 + "}", "expected a JSON object"),
        ('{"label": 1}', "found columns label; expected 'text'"),
        ('{"text": "a", "Label": 1}', "found columns text, Label; expected 'label'"),
        (one(text=None), "text: found null, expected a string"),
        (one(text=5), "text: found 5, expected a string"),
        (one(text=["a", "b"]), "text: found ['a', 'b'], expected a string"),
        (one(text="b\ud800"), "text: lone surrogate U+D800 at position 1, expected valid Unicode"),
        (one(label="\udfff"), "label: lone surrogate U+DFFF at position 0"),
        (one(label=None), "label: found null, expected a string or a number"),
        (one(label=True), "label: found true, expected a string or a number"),
        (one(label=[1]), "label: found [1], expected a string or a number"),
        (one(label=" "), "label: found an empty label"),
    ],
)
def test_bad_json(folder: Path, line: str, message: str) -> None:
    content = f"{one()}\n\n{line}\n{one()}\n"
    with pytest.raises(InputError, match=rf"t\.jsonl, line 3.*{re.escape(message)}") as found:
        read(folder, "t.jsonl", content)
    assert len(str(found.value)) < 600 + len(str(folder))


def test_json_pairs(folder: Path) -> None:
    first, second = one(text_pair="b"), one(text_pair=None)
    assert read(folder, "t.jsonl", f"{first}\n{second}").texts == [("a", "b"), ("a", None)]
    # Nobody wants to learn late that only some rows have a second text.
    for content in (f"{first}\n{one()}", f"{one()}\n{first}"):
        with pytest.raises(InputError, match=r"line [12]: found columns .*; expected 'text_pair'"):
            read(folder, "t.jsonl", content)
    with pytest.raises(InputError, match=r"line 1, text_pair: found 1, expected a string"):
        read(folder, "t.jsonl", one(text_pair=1))


def test_json_columns(folder: Path) -> None:
    with pytest.raises(InputError, match="found columns text, label; expected 'x'"):
        read(folder, "t.jsonl", one(), label="x")
    with pytest.raises(InputError, match="found no columns; expected 'sentence'"):
        read(folder, "t.jsonl", "{}")
    # A number is the name of a key.
    numbered = '{"1": "a", "2": "2", "3": "b"}'
    assert read(folder, "t.jsonl", numbered, text="1", pair="3", label="2") == PAIRS


# ---- from memory


def test_rows_in_memory() -> None:
    rows = [{"sentence": "a", "label": 1}, {"sentence": "b", "label": np.int64(0)}]
    assert read_rows(rows) == read_rows(iter(rows)) == PLAIN
    assert read_rows(zip(["a", "b"], [1.0, "0"], strict=True)) == PLAIN
    assert read_rows({"text": ["a", "b"], "label": np.array([1, 0])}) == PLAIN
    assert read_rows([(("a", "b"), 2)]) == PAIRS
    columns = Columns(text="x", pair="y", label="z")
    assert read_rows([{"x": "a", "y": "b", "z": 2}], columns) == PAIRS
    assert read_rows(["a", ("b", "c")], labelled=False).texts == [("a", None), ("b", "c")]
    assert read_rows([{"text": "a"}], labelled=False) == LabelledTexts([("a", None)], [])


def test_a_data_frame() -> None:
    class Frame:
        """As one of pandas: iterating gives the names of columns."""

        def __iter__(self) -> Any:
            return iter(["text", "label"])

        def iterrows(self) -> Any:
            raise NotImplementedError

        def to_dict(self, orient: str) -> Any:
            assert orient == "records"
            return [{"text": "a", "label": 1}, {"text": "b", "label": 0}]

    assert read_rows(Frame()) == PLAIN
    assert read_rows(Frame(), labelled=False).texts == PLAIN.texts


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], InputError, "train: found no rows"),
        (
            ["a"],
            InputTypeError,
            r"train, row 0: found str 'a', expected a mapping or",
        ),
        ([("a", 1, 2)], InputTypeError, "row 0: found tuple"),
        ([("a", 1), ("b", None)], InputError, "row 1, label: found null, expected a string or"),
        ([(("a", "b", "c"), 1)], InputTypeError, "row 0: found tuple"),
        ([{"text": "a"}], InputError, "train: found columns text; expected 'label'"),
        ([{"text": 1, "label": 1}], InputError, "row 0, text: found 1, expected a string"),
        ([{"text": "a", "label": math.nan}], InputError, "row 0, label: found nan, expected"),
        ([{"text": "a", "label": 1}, {"label": 1}], InputError, "row 1: found columns label"),
        ({"text": ["a", "b"], "label": [1]}, InputError, "train: found rows 2 in 'text', 1 in 'la"),
        ({"text": "ab", "label": "cd"}, InputTypeError, "train, 'text': found str, expected a who"),
        ({"text": ["a"], "label": None}, InputTypeError, "train, 'label': found NoneType, exp"),
    ],
)
def test_bad_rows_in_memory(rows: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_rows(rows, source="train")


# ---- labels


def test_classes_of_labels() -> None:
    names = ["no", "yes", "maybe"]
    assert Classify().targets(["yes", "0", "maybe", "2"], names) == [1, 0, 2, 2]
    assert Classify().targets([], names) == []
    for label in ("No", "3", "-1", "01", "1.0", "²", ""):
        with pytest.raises(InputError, match=r"^row 1: found label .*, expected one of \['no', "):
            Classify().targets(["no", label], names)
    with pytest.raises(InputError, match=r"^dev\.csv, row 0: .* or an index"):
        Classify().targets(["x"], names, source="dev.csv")
    many = [f"class {index}" for index in range(1000)]
    with pytest.raises(InputError) as found:
        Classify().targets(["x" * 10**6], many)
    assert len(str(found.value)) < 600


def test_an_index_is_not_taken_for_a_name_that_is_a_number() -> None:
    assert Classify().targets(["1", "2"], ["1", "2"]) == [0, 1]
    for names in (["1", "2"], ["1", "two"]):
        with pytest.raises(InputError, match=r"found label '0', expected one of \[.*\]$"):
            Classify().targets(["0"], names)


def test_numbers_of_labels() -> None:
    assert Regress().targets(["1", " -2.5 ", "1e3"], []) == [1, -2.5, 1000]
    for label in ("", "x", "nan", "inf", "1e999"):
        with pytest.raises(InputError, match=r"^row 1: found label '.*', expected a number"):
            Regress().targets(["1", label], [])
    with pytest.raises(InputError, match=r"^dev, row 0: "):
        Regress().targets(["x"], [], "dev")
