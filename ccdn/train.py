"""`python -m ccdn.train`, which is `ccdn train`."""

import sys

from ccdn.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
