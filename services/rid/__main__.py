"""Run rid: ``python -m services.rid``; settings by ``MINICLOUD_*``."""

import sys

from bus.frame import main
from services.rid.service import serve
from services.rid.settings import RidSettings

sys.exit(main("rid", serve, RidSettings))
