"""`python -m analysis.compare`: several checkpoints and the same clips in, a comparison out."""

import sys

from analysis.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]], program="python -m analysis.compare"))
