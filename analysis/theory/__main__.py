"""`python -m analysis.theory` runs the command of `analysis.theory.command`."""

import sys

from analysis.theory.command import main

if __name__ == "__main__":
    sys.exit(main())
