"""`python -m ccdn_ops`: what is built, which backends will be used, and why others will not."""

import argparse
import signal

from ccdn_ops.report import report

if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m ccdn_ops", description=__doc__).parse_args()
    if hasattr(signal, "SIGPIPE"):  # Python ignores it, and `| head` would end in a traceback
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(report())
