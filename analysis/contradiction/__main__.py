"""`python -m analysis.contradiction`: a checkpoint and clips in, a contradiction report beside a control out."""

import sys

from analysis.cli import main

if __name__ == "__main__":
    sys.exit(main(["contradiction", *sys.argv[1:]], program="python -m analysis.contradiction"))
