"""Run `dlaseg export`."""

import sys

from dlaseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
