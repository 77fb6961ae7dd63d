"""`python -m tests.servers`: fetches the server programs before the tests start, and says which they are."""

import sys

from tests.servers import programs


def main() -> int:
    for program in (programs.POSTGRES, programs.REDIS):
        try:
            print(f"{program.name}: {programs.find(program)}")
        except programs.ServerMissing as missing:
            print(missing, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
