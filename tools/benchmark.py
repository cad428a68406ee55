"""Run `dlaseg benchmark`."""

import sys

from dlaseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
