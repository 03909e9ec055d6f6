"""``python -m services.charagent``: run the agent of this node; ``--help`` lists the settings."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

from services.charagent.agent import Agent
from services.charagent.characterize import characterize
from services.charagent.settings import SettingError, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until a signal comes; 0, or 2 where a setting cannot be used."""
    try:
        settings = load(sys.argv[1:] if arguments is None else arguments)
        logging.basicConfig(
            level=settings.log_level,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        if settings.once:
            print(json.dumps(characterize(settings), indent=2, ensure_ascii=False))  # noqa: T201 - its purpose
        else:
            Agent(settings).run()
    except (SettingError, ValueError) as error:
        print(f"charagent: {error}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
