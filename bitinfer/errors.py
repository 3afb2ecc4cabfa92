"""The exceptions bitinfer raises, one class per kind of cause.

Every message names the thing, the value that was found and the value that was expected.  Each
class also derives from the built-in exception a caller would expect, so ``except ValueError`` keeps
working.
"""

from __future__ import annotations

import reprlib

_QUOTER = reprlib.Repr()
_QUOTER.maxlevel = 2  # each level may be six times as long
_MOST_TEXT = 100  # every tensor's name in full
_MOST_MESSAGE = 400


class BitinferError(Exception):
    """Base of every exception that bitinfer raises on purpose."""


class FormatError(BitinferError, ValueError):
    """A packed model file is damaged, incomplete, or of a version this release cannot read."""


class ConversionError(BitinferError, ValueError):
    """A checkpoint cannot be converted exactly: a key, shape, value or setting is not supported."""


class UnsupportedError(BitinferError, RuntimeError):
    """This machine, build or kind of model cannot do what was asked."""


class InputError(BitinferError, ValueError):
    """An argument (text, array, option) has a value that is not allowed."""


class InputTypeError(BitinferError, TypeError):
    """An argument (text, array, option) has a type that is not allowed."""


def quote(value: object) -> str:
    """``repr`` for messages about what a file holds: short, however long or deep the value is."""
    if isinstance(value, str) and len(value) <= _MOST_TEXT:
        return repr(value)
    return _QUOTER.repr(value)


def shorten(text: str) -> str:
    """A message without its middle if it is long, because it repeats what a file holds."""
    if len(text) <= _MOST_MESSAGE:
        return text
    kept = (_MOST_MESSAGE - 4) // 2
    return f"{text[:kept]}....{text[-kept:]}"
