"""`python -m ccdn`: the same as the command `ccdn`."""

import sys

from ccdn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
