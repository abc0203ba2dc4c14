"""`python -m analysis.decay`: a checkpoint and clips in, a decay report out."""

import sys

from analysis.cli import main

if __name__ == "__main__":
    sys.exit(main(["decay", *sys.argv[1:]], program="python -m analysis.decay"))
