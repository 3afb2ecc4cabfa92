"""The command line."""

from bitinfer.cli.main import main

__all__ = ["main"]
