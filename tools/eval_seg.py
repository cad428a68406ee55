"""Run `dlaseg eval`."""

import sys

from dlaseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
