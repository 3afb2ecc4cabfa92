"""Where an answer starts and ends: two logits for each token."""

from bitinfer.heads.registry import Head, register


class Span(Head):
    """Start and end, as for SQuAD; decoding them needs the text, so the caller does it."""

    name = "span"
    kind = "span"
    key = "qa_outputs"
    reads = "tokens"
    outputs = range(2, 3)
    meaning = "start, end"


register(Span())
