"""``python -m sedet``, the same as the command ``sedet``."""

import sys

from sedet.cli import main

if __name__ == "__main__":
    sys.exit(main())
