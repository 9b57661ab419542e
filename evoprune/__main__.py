"""`python -m evoprune`, and the console script."""

import sys
from contextlib import suppress
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The command line, which is imported here: Ctrl-C before it is there is one line too."""
    try:
        from evoprune.cli import main as run

        run()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            with suppress(OSError):
                print("error: interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
