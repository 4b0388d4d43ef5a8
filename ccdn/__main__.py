"""`python -m ccdn`, which is the command `ccdn`."""

import sys

from ccdn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
