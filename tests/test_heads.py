"""The heads there are: what they allow, answer and learn from."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from bitinfer.errors import InputError, UnsupportedError
from bitinfer.heads import ACCURACY, PEARSON, Head, find_head, heads, register

CLASSIFY, REGRESS, SPAN = (
    find_head(name, outputs)
    for name, outputs in (("classification", 3), ("classification", 1), ("span", 2))
)


def test_heads_of_the_package() -> None:
    assert [head.kind for head in heads()[:3]] == ["classification", "regression", "span"]
    assert [head.reads for head in (CLASSIFY, REGRESS, SPAN)] == ["pooled", "pooled", "tokens"]
    assert find_head("classification", 2) is CLASSIFY


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("span", 3, r"3 outputs: expected 2 \(start, end\) for a span head"),
        ("classification", 0, r"0 outputs: expected 2..\d+ or 1 \(a number\) for a classification"),
        ("tree", 2, r"head: found 'tree', expected 'classification' or 'span'"),
    ],
)
def test_unknown_heads(name: str, outputs: int, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        find_head(name, outputs)


def test_a_name_is_taken_once() -> None:
    class Pair(Head):
        name = "span"
        outputs = range(1, 10)

    with pytest.raises(InputError, match="head 'span': found one of 2 outputs"):
        register(Pair())


def test_answers_of_classes() -> None:
    logits = np.array([[0.0, 2.0, 2.0], [1.0, 0.0, -1.0]])
    ranked = CLASSIFY.decode(logits, ["a", "b", "c"], 2)
    assert [[p.label for p in row] for row in ranked] == [["b", "c"], ["a", "b"]]
    assert CLASSIFY.answers(logits).tolist() == [1, 0]
    assert CLASSIFY.targets(["c", "0"], ["a", "b", "c"]) == [2, 0]


def test_answers_of_a_regression() -> None:
    logits = np.array([[0.5], [-2.0]])
    assert [row[0].score for row in REGRESS.decode(logits, [], 1)] == [0.5, -2.0]
    assert REGRESS.values(logits).tolist() == REGRESS.answers(logits).tolist() == [0.5, -2.0]
    assert REGRESS.targets(["1", "2.5e-1"], []) == [1.0, 0.25]
    with pytest.raises(InputError, match=r"dev, row 1: found label '1e39', expected at most 3.4e"):
        REGRESS.targets(["1", "1e39"], [], "dev")


def test_a_span_has_no_answer_for_a_text() -> None:
    with pytest.raises(UnsupportedError, match="span head"):
        SPAN.decode(np.zeros((1, 2)), [], 1)
    assert SPAN.metric is None


def test_losses_leave_out_what_has_no_target() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.tensor([[0.0, 0.0], [5.0, 1.0]])
    known = CLASSIFY.label_loss(logits, torch.tensor([1, CLASSIFY.no_target]))
    assert float(known) == pytest.approx(math.log(2))
    assert float(CLASSIFY.label_loss(logits, torch.tensor([-100, -100]))) == 0
    values = torch.tensor([[1.0], [9.0]])
    assert float(REGRESS.label_loss(values, torch.tensor([3.0, math.nan]))) == 4
    assert float(REGRESS.teacher_loss(values, values + 2)) == 4
    assert float(CLASSIFY.teacher_loss(logits[:1], logits[:1])) == pytest.approx(math.log(2))


def test_metrics() -> None:
    assert ACCURACY.score([1, 0, 2], [1, 1, 2]) == pytest.approx(2 / 3)
    assert PEARSON.score([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1)
    assert math.isnan(PEARSON.score([1.0, 1.0], [2.0, 4.0]))
    assert ACCURACY.text(0.8211, ACCURACY.standard_error(0.8211, 872)) == "82.1 ± 1.3 %"
    assert PEARSON.standard_error(0.5, 1) is None
    assert PEARSON.text(math.nan) == "undefined"
    assert ACCURACY.text(1.0, 0.0) == "100.0 ± 0.0 %"
    assert (PEARSON.text(0.8216, 0.0123), PEARSON.text(-0.5)) == ("0.822 ± 0.012", "-0.500")
    for metric, value, count, error in (
        (ACCURACY, 0.5, 100, 0.05),
        (ACCURACY, 1.0, 10, 0.0),
        (ACCURACY, 0.5, 0, None),
        (ACCURACY, math.nan, 10, None),
        (PEARSON, 0.6, 17, 0.16),
        (PEARSON, -0.6, 17, 0.16),
        (PEARSON, math.nan, 9, None),
    ):
        assert metric.standard_error(value, count) == pytest.approx(error)


def test_heads_import_no_torch() -> None:
    code = "import sys, bitinfer.heads; print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
