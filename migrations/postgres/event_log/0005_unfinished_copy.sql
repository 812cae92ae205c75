-- A copy into this log that was begun and has not ended: with it, the log is not whole. Written with the first rows of the
-- copy, removed after the last.
CREATE TABLE unfinished_copy (
    id      integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    -- Which copy: the seal of an export, say.
    copy    text    NOT NULL,
    -- What to run again.
    command text    NOT NULL
);
