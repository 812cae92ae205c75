-- The keys of people, and the erasures of those who asked for it.

-- A destroyed key leaves its row: no key, and where the `user.erased` stands that it was destroyed for.
CREATE TABLE person_keys (
    user_id   BLOB PRIMARY KEY,
    key       BLOB,
    erased_at INTEGER,
    CHECK ((key IS NULL) = (erased_at IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- Name and address are kept until all is done, for finding what is theirs.
CREATE TABLE erasures (
    user_id      BLOB    PRIMARY KEY,
    position     INTEGER NOT NULL,
    username     TEXT,
    email        TEXT,
    completed_at INTEGER
) STRICT, WITHOUT ROWID;

-- Who was erased, also where nobody asked here: after an import.
CREATE INDEX events_erased ON events (position) WHERE event_type = 'user.erased';
