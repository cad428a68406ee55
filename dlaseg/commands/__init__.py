"""The subcommands of `dlaseg`: parse, one call, print."""
