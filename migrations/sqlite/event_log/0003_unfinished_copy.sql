-- A copy into this log that was begun and has not ended: with it, the log is not whole. Written with the first rows of the
-- copy, removed after the last.
CREATE TABLE unfinished_copy (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    -- Which copy: the seal of an export, say.
    copy    TEXT    NOT NULL,
    -- What to run again.
    command TEXT    NOT NULL
) STRICT;
