"""Work of the control plane's kind on the load's core: events into SQLite, five hundred to a transaction.

While usage is uploaded the control plane books it, and the other core of a small machine is slower for that, whatever
the sidecar does: caches, memory, often the core itself are shared. So the yardstick has this beside it when it is
compared with a sidecar that uploads.
"""

import hashlib
import json
import sqlite3
import sys
from itertools import count

BATCH = 500
ROWS_KEPT = 200_000


def main(path: str) -> None:
    """Never ends by itself."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, key TEXT UNIQUE, body TEXT)")
    for first in count(step=BATCH):
        connection.execute("BEGIN IMMEDIATE")
        for number in range(first, first + BATCH):
            body = json.dumps(
                {"number": number, "measures": {"input_tokens": "412", "output_tokens": "1083"}}
            )
            key = hashlib.sha256(body.encode()).hexdigest()
            connection.execute("INSERT INTO events (key, body) VALUES (?, ?)", (key, body))
        connection.execute("DELETE FROM events WHERE id <= ?", (first - ROWS_KEPT,))
        connection.execute("COMMIT")


if __name__ == "__main__":
    main(sys.argv[1])
