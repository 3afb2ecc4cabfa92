"""The exceptions bitinfer raises, one class per kind of cause.

Every message names the thing, the value that was found and the value that was expected.  Each
class also derives from the built-in exception a caller would expect, so ``except ValueError`` keeps
working.
"""

from __future__ import annotations

__all__ = [
    "BitinferError",
    "ConversionError",
    "FormatError",
    "InputError",
    "InputTypeError",
    "UnsupportedError",
]


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
