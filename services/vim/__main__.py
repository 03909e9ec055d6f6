"""Run vim: ``python -m services.vim``; settings by ``MINICLOUD_*``."""

import sys

from bus.frame import run
from services.vim.service import VimSettings, serve

sys.exit(run("vim", serve, VimSettings.load()))
