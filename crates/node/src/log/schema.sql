BEGIN;
-- One row per exec: when it ran and how it ended for those who ask in SQL, the whole record for the server.
CREATE TABLE execs (
    id TEXT PRIMARY KEY NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    duration_ms REAL,
    reason TEXT,
    exit_code INTEGER,
    idempotency_key TEXT,
    record TEXT NOT NULL,
    argv TEXT AS (json_extract(record, '$.exec.argv')) VIRTUAL
);
CREATE INDEX execs_by_key ON execs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX execs_by_end ON execs (ended_at);
-- One row per terminal.
CREATE TABLE terminal_sessions (
    id TEXT PRIMARY KEY NOT NULL,
    opened_at TEXT NOT NULL,
    closed_at TEXT,
    record TEXT NOT NULL
);
-- What happened, in order. `synced` marks what has been handed on to the platform's own store.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY NOT NULL,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    synced INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX events_to_sync ON events (seq) WHERE synced = 0;
PRAGMA user_version = 1;
COMMIT;
