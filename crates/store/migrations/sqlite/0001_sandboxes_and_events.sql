-- Portable types only: TEXT, BIGINT (milliseconds since 1970, seconds, 0/1) and JSON as TEXT.

CREATE TABLE sandboxes (
    id                TEXT   NOT NULL PRIMARY KEY,
    owner             TEXT   NOT NULL,
    name              TEXT,
    state             TEXT   NOT NULL,
    tier              TEXT   NOT NULL,
    requested_tier    TEXT   NOT NULL,
    template          TEXT   NOT NULL,
    resolved_template TEXT   NOT NULL,
    instance_type     TEXT   NOT NULL,
    limits            TEXT   NOT NULL,
    env               TEXT   NOT NULL,
    labels            TEXT   NOT NULL,
    metadata          TEXT,
    promotion         TEXT   NOT NULL,
    keep_alive        BIGINT NOT NULL,
    timeout_s         BIGINT,
    idle_timeout_s    BIGINT,
    created_at        BIGINT NOT NULL,
    started_at        BIGINT,
    expires_at        BIGINT,
    ended_at          BIGINT,
    ending            TEXT
);

-- A name is free again as soon as its holder has ended.
CREATE UNIQUE INDEX sandboxes_name ON sandboxes (owner, name) WHERE state <> 'ended';
CREATE INDEX sandboxes_of_owner ON sandboxes (owner, id);
CREATE INDEX sandboxes_live ON sandboxes (id) WHERE state <> 'ended';
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE state = 'ended';

-- The labels of `sandboxes.labels` once more, to filter by.
CREATE TABLE labels (
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    key        TEXT NOT NULL,
    value      TEXT NOT NULL,
    PRIMARY KEY (sandbox_id, key)
);

-- AUTOINCREMENT: a position is never given twice, even after the newest events were removed.
CREATE TABLE events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         BIGINT NOT NULL,
    sandbox_id TEXT   NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    kind       TEXT   NOT NULL,
    data       TEXT   NOT NULL
);

CREATE INDEX events_of_sandbox ON events (sandbox_id, seq);
CREATE INDEX events_by_time ON events (at);
