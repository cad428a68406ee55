"""Run `dlaseg pretrain`."""

import sys

from dlaseg.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
