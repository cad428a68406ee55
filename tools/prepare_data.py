"""Run `dlaseg data`."""

import sys

from dlaseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["data", *sys.argv[1:]]))
