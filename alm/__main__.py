"""`python -m alm` is the `alm` command."""

import sys

from alm.common.import_path import protect_imports

protect_imports()  # before anything else of ours: python -m puts the working directory first

from alm.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
