"""`python -m alm` is the `alm` command."""

import sys

from alm.cli import main

if __name__ == "__main__":
    sys.exit(main())
