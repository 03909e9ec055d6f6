"""Run vim: ``python -m services.vim``; settings by ``MINICLOUD_*``."""

import sys

from bus.frame import main
from services.vim.service import VimSettings, serve

sys.exit(main("vim", serve, VimSettings))
