"""`python -m tests.servers`: fetches the server programs before the tests start, and says which they are."""

import sys

from tests.servers import programs


def main() -> int:
    is_complete = True
    for program in (*programs.SERVERS, *programs.FAULTS):
        try:
            print(f"{program.name}: {programs.find(program)}")
        except programs.ServerMissing as missing:
            print(missing, file=sys.stderr)
            is_complete &= program not in programs.SERVERS
    return 0 if is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
