"""``python -m lightly_prg.cli``."""

from lightly_prg.cli import main

main()
