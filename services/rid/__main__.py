"""Run rid: ``python -m services.rid``; settings by ``MINICLOUD_*``."""

import sys

from bus.frame import run
from services.rid.service import serve
from services.rid.settings import RidSettings

sys.exit(run("rid", serve, RidSettings.load()))
