"""What a model is asked for: each head is one file that registers itself.

>>> find_head("classification", 2).reads
'pooled'
"""

from bitinfer.heads.metrics import ACCURACY, PEARSON, Metric
from bitinfer.heads.registry import Head, Reads, find_head, heads, register

# isort: split
# Imported for what they register.
from bitinfer.heads import classify as classify
from bitinfer.heads import regress as regress
from bitinfer.heads import span as span

__all__ = ["ACCURACY", "PEARSON", "Head", "Metric", "Reads", "find_head", "heads", "register"]
