"""The broker's process as others see it: found by its pid file, reloaded by a signal.

So ``minicloud credentials`` can reach a broker that another process started. In: the broker's folder.
Out: its pid when it runs, and a reload that is known to have taken effect.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final

import psutil

from bus.broker_config import CONFIG_FILE, LOG_FILE, PID_FILE
from bus.broker_log import LogCursor
from schemas.errors import InvalidDocument, RequestTimeout

_RELOADED: Final = "Reloaded server configuration"
_NOT_RELOADED: Final = "Failed to reload server configuration"


def running_pid(folder: Path) -> int | None:
    """The pid of the broker that runs from ``folder``, or None.

    A pid file may be stale and its pid another program's by now, so the command line is looked at too.
    """
    try:
        pid = int((folder / PID_FILE).read_text())
        process = psutil.Process(pid)
        ours = str(folder / CONFIG_FILE) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return pid if ours else None


def reload_running(folder: Path, timeout: float = 120.0) -> bool:
    """Let the broker of ``folder`` read its configuration anew, and wait until it has.

    Args:
        folder: the broker's folder.
        timeout: seconds. The broker checks each connected client anew, about 1 ms each (bcrypt), beside its
            other work; 5,000 credentials without connections take 0.3 s.

    Returns:
        False when no broker runs there (it will read the configuration when it starts).

    Raises:
        InvalidDocument: the broker refused the configuration and goes on with the old one.
        RequestTimeout: it did not say in time that it has.
    """
    pid = running_pid(folder)
    if pid is None:
        return False
    cursor = LogCursor(folder / LOG_FILE)
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        for line in cursor.lines():
            if _NOT_RELOADED in line:
                reason = line.partition(_NOT_RELOADED)[2].strip(": ")
                raise InvalidDocument(f"the broker refused it: {reason}", field=str(folder / CONFIG_FILE))
            if _RELOADED in line:
                return True
        if running_pid(folder) is None:
            return False
        time.sleep(0.005)
    raise RequestTimeout(
        f"the broker (pid {pid}) did not confirm its new configuration in {timeout:g} s",
        field=str(folder / LOG_FILE),
        expected=f"a line with {_RELOADED!r}",
    )
