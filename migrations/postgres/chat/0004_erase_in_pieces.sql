-- Somebody's messages are erased in pieces, in the order of this index.
DROP INDEX chat_messages_by_user;
CREATE INDEX chat_messages_by_user ON chat_messages (user_id, room, seq);

-- Appends messages, each with the next seq of its room in the order given, and says of each its seq, and whether it was
-- there already (then also how it was). What still comes of somebody who is erased is kept, and told, as a tombstone, and
-- their own name for it is not kept. Whoever notes that somebody is erased locks the table of messages against appends
-- meanwhile.
--
-- `rooms` are the names of all rooms, sorted, each once; a message names its room by the place in there. No two messages
-- may have the same room, sender and client_id.
CREATE OR REPLACE FUNCTION append_messages(
    rooms text[],
    message_rooms integer[],
    ids uuid[],
    user_ids uuid[],
    usernames bytea[],
    messages bytea[],
    client_ids bytea[],
    ats bigint[]
) RETURNS TABLE (
    nth integer,
    placed bigint,
    duplicate boolean,
    earlier_id uuid,
    earlier_username bytea,
    earlier_message bytea,
    earlier_at bigint
)
LANGUAGE plpgsql VOLATILE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    numbers bigint[];
    last_seqs bigint[];
    known bigint[];
    seqs bigint[];
    gone boolean[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'append_messages needs READ COMMITTED: it would not see what was committed while it waited';
    END IF;
    -- Before it is looked up who is erased: an erasure that is noted while this waits for the lock is seen, and one that is
    -- noted later waits for these messages and finds them.
    LOCK TABLE chat_messages IN ROW EXCLUSIVE MODE;
    -- New rooms first, while no room is locked; then all locks in the order of the names. So nobody ever waits in a ring.
    INSERT INTO chat_rooms AS r (name, last_seq)
    SELECT n.name, 0 FROM unnest(rooms) WITH ORDINALITY AS n (name, place)
    LEFT JOIN LATERAL (SELECT k.room FROM chat_rooms AS k WHERE k.name = n.name LIMIT 1) AS k ON true
    WHERE k.room IS NULL
    ORDER BY n.place
    ON CONFLICT (name) DO NOTHING;
    PERFORM r.room FROM chat_rooms AS r WHERE r.name = ANY (rooms) ORDER BY r.name FOR UPDATE;
    -- Only now, with a snapshot from after the locks.
    SELECT array_agg(r.room ORDER BY n.place), array_agg(r.last_seq ORDER BY n.place)
    INTO numbers, last_seqs
    FROM unnest(rooms) WITH ORDINALITY AS n (name, place)
    CROSS JOIN LATERAL (SELECT k.room, k.last_seq FROM chat_rooms AS k WHERE k.name = n.name LIMIT 1) AS r;

    SELECT array_agg(d.known ORDER BY d.n), array_agg(d.seq ORDER BY d.n), array_agg(d.gone ORDER BY d.n)
    INTO known, seqs, gone
    FROM (
        SELECT m.n, c.seq AS known, coalesce(e.gone, false) AS gone,
            coalesce(c.seq, last_seqs[m.room]
                + count(*) FILTER (WHERE c.seq IS NULL) OVER (PARTITION BY m.room ORDER BY m.n)) AS seq
        FROM unnest(message_rooms, user_ids, client_ids) WITH ORDINALITY AS m (room, user_id, client_id, n)
        LEFT JOIN LATERAL (
            SELECT true AS gone FROM chat_erased AS k WHERE k.user_id = m.user_id LIMIT 1
        ) AS e ON true
        -- A name of theirs that is not deleted yet names nothing any more.
        LEFT JOIN LATERAL (
            SELECT k.seq FROM chat_client_ids AS k
            WHERE e.gone IS NULL
                AND k.room = numbers[m.room] AND k.user_id = m.user_id AND k.client_id = m.client_id LIMIT 1
        ) AS c ON true
    ) AS d;

    INSERT INTO chat_messages (room, seq, id, user_id, username, message, at)
    SELECT numbers[m.room], seqs[m.n], m.id, m.user_id,
        CASE WHEN gone[m.n] THEN convert_to('[erased]', 'UTF8') ELSE m.username END,
        CASE WHEN gone[m.n] THEN convert_to('[erased]', 'UTF8') ELSE m.message END, m.at
    FROM unnest(message_rooms, ids, user_ids, usernames, messages, ats)
        WITH ORDINALITY AS m (room, id, user_id, username, message, at, n)
    WHERE known[m.n] IS NULL;

    INSERT INTO chat_client_ids (room, user_id, client_id, seq)
    SELECT numbers[m.room], m.user_id, m.client_id, seqs[m.n]
    FROM unnest(message_rooms, user_ids, client_ids) WITH ORDINALITY AS m (room, user_id, client_id, n)
    WHERE known[m.n] IS NULL AND m.client_id IS NOT NULL AND NOT gone[m.n];

    UPDATE chat_rooms AS r
    SET last_seq = s.last_seq
    FROM (
        SELECT numbers[m.room] AS room, max(seqs[m.n]) AS last_seq
        FROM unnest(message_rooms) WITH ORDINALITY AS m (room, n)
        WHERE known[m.n] IS NULL
        GROUP BY m.room
    ) AS s
    WHERE r.room = s.room;

    RETURN QUERY
    SELECT m.n::integer, seqs[m.n], known[m.n] IS NOT NULL, e.id, e.username, e.message, e.at
    FROM unnest(message_rooms) WITH ORDINALITY AS m (room, n)
    LEFT JOIN chat_messages AS e
        ON e.room = numbers[m.room] AND e.seq = CASE WHEN gone[m.n] THEN seqs[m.n] ELSE known[m.n] END;
END
$$;
