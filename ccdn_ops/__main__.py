"""`python -m ccdn_ops`: what is built, what will be used, and why not the rest."""

from ccdn_ops.report import report

if __name__ == "__main__":
    print(report())
