-- Which relay process publishes, and how far it has come. One row each.

CREATE TABLE relay_lease (
    id      integer PRIMARY KEY CHECK (id = 1),
    -- None: the lease is free.
    owner   text,
    -- Rises with each change of the holder.
    epoch   bigint NOT NULL,
    -- By this database's clock.
    renewed timestamptz NOT NULL
);
INSERT INTO relay_lease VALUES (1, NULL, 0, now());

CREATE TABLE relay_state (
    id       integer PRIMARY KEY CHECK (id = 1),
    frontier json NOT NULL
);
