"""Run `dlaseg train`."""

import sys

from dlaseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
