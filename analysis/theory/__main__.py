"""`python -m analysis.theory`: every claim put to random scans, and to those of a checkpoint."""

import sys

from analysis.cli import main

if __name__ == "__main__":
    sys.exit(main(["theory", *sys.argv[1:]], program="python -m analysis.theory"))
