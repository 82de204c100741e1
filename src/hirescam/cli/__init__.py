"""The command line: one module for each group of commands, and ``app``, which lists them."""

from hirescam.cli.app import main

__all__ = ["main"]
