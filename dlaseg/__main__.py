"""`python -m dlaseg` is the command `dlaseg`, also where the folder of commands is not on the PATH."""

import sys

from dlaseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
