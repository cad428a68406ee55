"""`dlaseg demo`."""

import signal
from collections.abc import Sequence

from dlaseg.commands.parsing import command_parser, size_in_bytes
from dlaseg.errors import UserError


def demo(arguments: Sequence[str]) -> int:
    """Serve a page on which people try weights: images, videos, two networks side by side."""
    parser = command_parser("demo", demo)
    parser.add_argument("weights", nargs="*", help="files, folders, names of `dlaseg weights "
                        "list`, or USER/NAME of the Hugging Face hub (default: the first name of that "
                        "list)")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is open to the network "
                        "(default: 127.0.0.1, this machine alone)")  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--max-upload", type=size_in_bytes, default="50MB", metavar="SIZE", help="largest file that is "
                        "taken")  # fmt: skip
    args = parser.parse_args(arguments)
    if not 1 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: use 1 to 65535")

    from dlaseg.inference.backends.graph import require
    from dlaseg.inference.network import open_network
    from dlaseg.weights.builtin import default_weights

    require("gradio", "dlaseg[demo]")
    names = args.weights or [default_weights()]
    for weights in names:
        _ = open_network(weights).metadata  # what is wrong with them is said now
    from dlaseg.demo.page import served

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the uploads are removed
    try:
        with served(names, args.host, args.port, args.max_upload) as (page, address):
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            page.block_thread()
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0
