"""`python -m hvmmu`: the same as the command `hvmmu`."""

import sys

from hvmmu._cli import main

if __name__ == "__main__":
    sys.exit(main())
