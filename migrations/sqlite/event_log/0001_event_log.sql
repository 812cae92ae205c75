-- The event log and what commits with it. One file, one writing process, one writing thread.

-- The first seven columns are the table of sqlite-es, names, types and all, so that its repository reads this table as
-- it is. `position` is the row's own key: the log is stored in the order it is read, and appending goes to its end.
CREATE TABLE events (
    aggregate_type TEXT    NOT NULL,
    aggregate_id   TEXT    NOT NULL,
    sequence       INTEGER NOT NULL CHECK (sequence >= 1),
    event_type     TEXT    NOT NULL,
    event_version  TEXT    NOT NULL,
    payload        TEXT    NOT NULL,
    metadata       TEXT    NOT NULL,
    -- From 1, without gaps, in the order of commits.
    position       INTEGER PRIMARY KEY CHECK (position >= 1),
    event_id       BLOB    NOT NULL,
    command_id     BLOB    NOT NULL,
    -- Milliseconds since the Unix epoch, by the writer's clock.
    recorded_at    INTEGER NOT NULL,
    UNIQUE (aggregate_type, aggregate_id, sequence)
) STRICT;

-- A command sent again is found by this. Ids sort by time, so a new one goes to the index's end.
CREATE INDEX events_by_command ON events (command_id);

-- Commands that wrote side rows but no events: they too are carried out once.
CREATE TABLE commands (
    id          INTEGER PRIMARY KEY,
    command_id  BLOB    NOT NULL UNIQUE,
    position    INTEGER NOT NULL,
    version     INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL
) STRICT;

-- How people prove who they are: never in the log itself. The keys are the texts in lower case.
CREATE TABLE credentials (
    user_id       BLOB    PRIMARY KEY,
    username      TEXT    NOT NULL,
    username_key  TEXT    NOT NULL UNIQUE,
    email         TEXT    NOT NULL,
    email_key     TEXT    NOT NULL UNIQUE,
    password_hash TEXT    NOT NULL,
    token_epoch   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Read once at start: the few whose older tokens are refused.
CREATE INDEX credentials_raised ON credentials (token_epoch) WHERE token_epoch > 1;

-- Answers to commands with an Idempotency-Key. Pruned from the oldest row (the smallest id) after 24 hours.
CREATE TABLE answers (
    id          INTEGER PRIMARY KEY,
    owner       TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    body        TEXT    NOT NULL,
    position    INTEGER NOT NULL,
    stored_at   INTEGER NOT NULL,
    UNIQUE (owner, route, key)
) STRICT;

-- Written after a commit that failed, so that the remains of that commit in the WAL can never come back to life.
CREATE TABLE failed_commits (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    number INTEGER NOT NULL
) STRICT;
INSERT INTO failed_commits VALUES (1, 0);
