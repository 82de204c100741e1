"""``python -m hirescam``: the command line."""

from hirescam.cli import main

main()
