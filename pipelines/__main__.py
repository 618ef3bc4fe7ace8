"""Entry of the command line: `croupier`, and `python -m pipelines`."""

from __future__ import annotations

from pipelines.cli.app import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
