"""The commands, a file each; ``minicloud/cli.py`` gathers them."""
