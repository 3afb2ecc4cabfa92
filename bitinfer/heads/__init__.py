"""What a model is asked for: a head is one file here that registers itself.

>>> find_head("classification", 2).reads
'pooled'
"""

import pkgutil
from importlib import import_module

from bitinfer.heads.metrics import ACCURACY, PEARSON, Metric
from bitinfer.heads.registry import Head, find_head, heads, register

__all__ = ["ACCURACY", "PEARSON", "Head", "Metric", "find_head", "heads", "register"]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
