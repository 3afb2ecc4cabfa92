"""The command line."""

from bitinfer.cli.main import main as main
