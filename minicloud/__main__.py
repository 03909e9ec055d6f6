"""``python -m minicloud`` is the ``minicloud`` command."""

from minicloud.cli import main

main(prog_name="minicloud")
