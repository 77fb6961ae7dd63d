-- The outbox's tables. Instants are microseconds since 1970; bodies are encoded protobuf of purser.sync.v1.
-- Checksums are those of checks.py, and looked at wherever an amount rests on the row. Keys and refusals have none: no amount rests on them.
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE incarnations (
    no INTEGER PRIMARY KEY,
    incarnation_id TEXT NOT NULL UNIQUE,
    boot_id TEXT NOT NULL,
    is_synced INTEGER NOT NULL,             -- 0: a reboot may lose its last commits
    last_seq INTEGER NOT NULL DEFAULT 0,
    last_group INTEGER NOT NULL DEFAULT 0,  -- tells after an error at COMMIT whether it happened
    cursor INTEGER NOT NULL DEFAULT 0,      -- in the control plane's books up to here
    ended INTEGER NOT NULL DEFAULT 0,
    was_stopped INTEGER NOT NULL DEFAULT 0, -- 1: it synced everything and went
    marks INTEGER NOT NULL DEFAULT 0,       -- last_seq + last_group, else the disk has spoiled one of them
    checksum INTEGER NOT NULL,              -- of what is above but does not change with every commit
    progress_checksum INTEGER NOT NULL,     -- of what becomes of it later: cursor, ended
    CHECK (cursor >= 0 AND last_seq >= 0)
);

-- id = no << 40 | seq, so that appending touches the last page only. The body is a Record without its number.
CREATE TABLE records (id INTEGER PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL);

-- When which stretch was acknowledged: rows go a day later.
CREATE TABLE acknowledgements (no INTEGER NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL);
CREATE INDEX acknowledgements_at ON acknowledgements (at);

CREATE TABLE keys (
    id INTEGER PRIMARY KEY,
    customer_id TEXT NOT NULL,
    key TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    answer BLOB NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (customer_id, key)
);
-- keys_at, by which old ones are found, is made at each opening where it is missing.

CREATE TABLE reservations (
    reservation_id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    state BLOB NOT NULL,
    at INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX reservations_open ON reservations (reservation_id) WHERE is_open = 1;

CREATE TABLE leases (
    lease_id TEXT PRIMARY KEY,
    no INTEGER,                             -- NULL: of a file that was set aside
    lease BLOB NOT NULL,                    -- a PresentedLease
    allotted INTEGER NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    returned INTEGER NOT NULL DEFAULT 0,
    rest INTEGER NOT NULL,                  -- allotted = held + returned + rest, else the disk has spoiled one of them
    checksum INTEGER NOT NULL               -- of what does not change
);
CREATE INDEX leases_no ON leases (no);

-- Charges to earlier incarnations' leases that are still on their way: what CloseSession must keep beside the holds.
CREATE TABLE carried (
    no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    lease_id TEXT NOT NULL,
    amount INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);

CREATE TABLE refusals (id INTEGER PRIMARY KEY, is_sample INTEGER NOT NULL, body BLOB NOT NULL);

CREATE TABLE probe (id INTEGER PRIMARY KEY, body BLOB NOT NULL);

PRAGMA user_version = 2;
