"""`dlaseg doctor`."""

import json
from collections.abc import Sequence

from dlaseg.commands.parsing import command_parser


def doctor(arguments: Sequence[str]) -> int:
    """Examine machine and installation, and say what to do about problems. Exit code 1 if there is one."""
    parser = command_parser("doctor", doctor)
    parser.add_argument("--json", action="store_true", help="print everything as JSON, for reports of bugs")
    args = parser.parse_args(arguments)

    from dlaseg.benchmarking.doctor import examine, to_dict

    facts = examine()
    if args.json:
        print(json.dumps(to_dict(facts), indent=2))
    else:
        width = max(len(fact.name) for fact in facts)
        for fact in facts:
            print(f"{fact.status:<8} {fact.name:<{width}}  {fact.value}")
            if fact.remedy is not None:
                print(f"{'':<8} {'':<{width}}  -> {fact.remedy}")
    return 1 if any(fact.status == "problem" for fact in facts) else 0
