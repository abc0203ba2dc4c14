"""`python -m vmp`: the commands of `vmp.commands`."""

import sys

from vmp.commands import main

if __name__ == "__main__":
    sys.exit(main())
