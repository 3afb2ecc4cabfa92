"""Readers of published checkpoints: one file for each format, all yielding a `Description`."""
