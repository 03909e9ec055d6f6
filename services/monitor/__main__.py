"""Run the monitor: ``python -m services.monitor``; settings by ``MINICLOUD_*``."""

import sys

from bus.frame import main
from services.monitor.service import serve
from services.monitor.settings import MonitorSettings

sys.exit(main("monitor", serve, MonitorSettings))
