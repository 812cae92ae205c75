-- What each process on this log said of itself last. Unlogged: who is alive says it again in a moment.
CREATE UNLOGGED TABLE process_report (
    process text        PRIMARY KEY,
    report  jsonb       NOT NULL,
    seen    timestamptz NOT NULL
) WITH (fillfactor = 50);
