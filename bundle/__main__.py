"""``python -m bioatt``, where the `bioatt` command is not on the path."""

from __future__ import annotations

from .scripts.app.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
