"""`python -m ccdn.train`, which is `ccdn train`."""

import sys

from ccdn.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
