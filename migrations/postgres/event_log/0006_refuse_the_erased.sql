-- Nobody acts after their erasure.

-- Carries out a batch of commands, each whole or not at all, and says what became of each.
--
-- Commands are numbered from 1 by their place in the arrays; event and side arrays name their command by that number.
-- Commands that share anything (stream, command id, credentials, idempotency key) must be in different waves, in their
-- order, and so must an erasure and what its person does: a wave is decided as a whole, on what the waves before it have
-- written. So a command that loses never stands in the way of a later one of the batch. The unique keys are the alarm for
-- a caller that gets this wrong.
--
-- Answers one row a command. Codes: 0 appended; 1 done before (position and version are what it did then); 2 the stream
-- is at another version (which is told); 3 username taken; 4 e-mail taken; 5 the key has an answer (which is told);
-- 6 no such credentials; 7 the actor is erased: nothing of theirs is written any more, whenever their request began, since
-- an answer that is kept has texts in clear. A reset without a hash is an erasure: credentials and answers go, and what is
-- left to do is noted; it is never refused for want of credentials. When it pruned, one more row with command 0 tells as
-- its code whether there may be more to prune.
CREATE OR REPLACE FUNCTION append_events(
    recorded bigint,
    lifetime bigint,
    prune_step integer,
    command_ids uuid[],
    waves integer[],
    aggregate_types text[],
    aggregate_ids text[],
    expected_versions bigint[],
    event_counts integer[],
    remembered boolean[],
    actors uuid[],
    event_commands integer[],
    event_nths integer[],
    event_types text[],
    event_versions text[],
    payloads text[],
    metadatas text[],
    event_ids uuid[],
    credential_commands integer[],
    credential_nths integer[],
    user_ids uuid[],
    usernames text[],
    username_keys text[],
    emails text[],
    email_keys text[],
    password_hashes text[],
    token_epochs bigint[],
    reset_commands integer[],
    reset_nths integer[],
    reset_users uuid[],
    reset_hashes text[],
    answer_commands integer[],
    answer_nths integer[],
    owners text[],
    routes text[],
    keys text[],
    fingerprints bytea[],
    bodies text[],
    stored_ats bigint[]
) RETURNS TABLE (
    command integer,
    code integer,
    log_position bigint,
    stream_version bigint,
    answer_fingerprint bytea,
    answer_body text,
    answer_position bigint,
    answer_stored_at bigint
)
LANGUAGE plpgsql VOLATILE
-- Every look-up is by a key. Plans are made once a connection, perhaps on an empty table, and must not then scan a full one.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    commands_total CONSTANT integer := cardinality(command_ids);
    has_side CONSTANT boolean :=
        cardinality(credential_commands) + cardinality(reset_commands) + cardinality(answer_commands) > 0;
    remembers CONSTANT boolean := true = ANY (remembered);
    last_wave CONSTANT integer := (SELECT max(w) FROM unnest(waves) AS w);
    head bigint;
    refusal record;
    refusals integer[] := array_fill(0, ARRAY[commands_total]);
    standing bigint[] := array_fill(NULL::bigint, ARRAY[commands_total]);
    codes integer[];
    positions bigint[];
    versions bigint[];
    pruned_answers integer;
    pruned_commands integer;
BEGIN
    -- One append at a time in the whole database, until it is committed. Only after this does any statement look at the
    -- tables, each with a snapshot of its own: what the one before committed is seen.
    PERFORM pg_advisory_xact_lock(8316291640277037);
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'append_events needs READ COMMITTED: it would not see what was committed while it waited';
    END IF;
    SELECT coalesce(max(e.position), 0) INTO head FROM events AS e;

    FOR this_wave IN 1..last_wave LOOP
        IF has_side THEN
            -- The first row of a command that is refused decides, so it is noted last.
            FOR refusal IN
                SELECT r.command AS n, r.code AS why, r.answer
                FROM (
                    SELECT c.command, c.nth, CASE WHEN u.taken THEN 3 ELSE 4 END AS code, NULL::bigint AS answer
                    FROM unnest(credential_commands, credential_nths, username_keys, email_keys)
                        AS c (command, nth, username_key, email_key)
                    LEFT JOIN LATERAL (
                        SELECT true AS taken FROM credentials AS k WHERE k.username_key = c.username_key LIMIT 1
                    ) AS u ON true
                    LEFT JOIN LATERAL (
                        SELECT true AS taken FROM credentials AS k WHERE k.email_key = c.email_key LIMIT 1
                    ) AS m ON true
                    WHERE waves[c.command] = this_wave AND (u.taken OR m.taken)
                    UNION ALL
                    SELECT p.command, p.nth, 6, NULL
                    FROM unnest(reset_commands, reset_nths, reset_users, reset_hashes) AS p (command, nth, user_id, hash)
                    LEFT JOIN LATERAL (
                        SELECT true AS known FROM credentials AS k WHERE k.user_id = p.user_id LIMIT 1
                    ) AS k ON true
                    WHERE waves[p.command] = this_wave AND k.known IS NULL AND p.hash IS NOT NULL
                    UNION ALL
                    SELECT a.command, a.nth, 5, s.id
                    FROM unnest(answer_commands, answer_nths, owners, routes, keys, stored_ats)
                        AS a (command, nth, owner, route, key, stored_at)
                    CROSS JOIN LATERAL (
                        SELECT t.id FROM answers AS t
                        WHERE t.owner = a.owner AND t.route = a.route AND t.key = a.key
                            AND a.stored_at - t.stored_at < lifetime
                        LIMIT 1
                    ) AS s
                    WHERE waves[a.command] = this_wave
                ) AS r
                ORDER BY r.nth DESC
            LOOP
                refusals[refusal.n] := refusal.why;
                standing[refusal.n] := refusal.answer;
            END LOOP;
        END IF;

        -- For each command of the wave its code, and where log and stream stand after it.
        SELECT array_agg(d.code ORDER BY d.n),
            array_agg(CASE WHEN d.code = 1 THEN d.first_position ELSE d.stands END ORDER BY d.n),
            array_agg(CASE d.code WHEN 0 THEN d.actual + d.events WHEN 1 THEN d.first_version ELSE d.actual END ORDER BY d.n),
            max(d.stands)
        INTO codes, positions, versions, head
        FROM (
            SELECT t.*, head + sum(CASE WHEN t.code = 0 THEN t.events ELSE 0 END) OVER (ORDER BY t.n) AS stands
            FROM (
                SELECT c.n, c.events,
                    coalesce(f.position, k.position) AS first_position,
                    coalesce(f.sequence, k.version) AS first_version,
                    coalesce(v.sequence, 0) AS actual,
                    CASE
                        WHEN c.wave <> this_wave THEN -1
                        WHEN f.position IS NOT NULL OR k.position IS NOT NULL THEN 1
                        WHEN x.gone THEN 7
                        WHEN refusals[c.n] > 0 THEN refusals[c.n]
                        WHEN c.events > 0 AND coalesce(v.sequence, 0) <> c.expected THEN 2
                        ELSE 0
                    END AS code
                FROM unnest(command_ids, waves, aggregate_types, aggregate_ids, expected_versions, event_counts, actors)
                    WITH ORDINALITY AS c (command_id, wave, aggregate_type, aggregate_id, expected, events, actor, n)
                LEFT JOIN LATERAL (
                    SELECT e.position, e.sequence FROM events AS e
                    WHERE c.wave = this_wave AND e.command_id = c.command_id
                    -- Plus nothing, so that no plan walks down the positions: before the table is first analyzed a command
                    -- seems to have hundreds of events, and a new one, which has none, would be sought in the whole log.
                    ORDER BY e.position + 0 DESC LIMIT 1
                ) AS f ON true
                LEFT JOIN LATERAL (
                    SELECT r.position, r.version FROM commands AS r
                    WHERE c.wave = this_wave AND r.command_id = c.command_id LIMIT 1
                ) AS k ON true
                LEFT JOIN LATERAL (
                    SELECT e.sequence FROM events AS e
                    WHERE c.wave = this_wave AND e.aggregate_type = c.aggregate_type AND e.aggregate_id = c.aggregate_id
                    ORDER BY e.sequence DESC LIMIT 1
                ) AS v ON true
                LEFT JOIN LATERAL (
                    SELECT true AS gone FROM erasures AS r WHERE c.wave = this_wave AND r.user_id = c.actor
                    -- Also where nobody asked for it here: their key is gone, then.
                    UNION ALL
                    SELECT true FROM person_keys AS k
                    WHERE c.wave = this_wave AND k.user_id = c.actor AND k.erased_at IS NOT NULL
                    LIMIT 1
                ) AS x ON true
            ) AS t
        ) AS d;

        INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
            position, event_id, command_id, actor, recorded_at)
        SELECT aggregate_types[e.n], aggregate_ids[e.n], versions[e.n] - event_counts[e.n] + e.nth, e.type, e.version,
            e.payload::json, e.metadata::json,
            positions[e.n] - event_counts[e.n] + e.nth, e.event_id, command_ids[e.n], actors[e.n], recorded
        FROM unnest(event_commands, event_nths, event_types, event_versions, payloads, metadatas, event_ids)
            AS e (n, nth, type, version, payload, metadata, event_id)
        WHERE codes[e.n] = 0;

        IF has_side THEN
            INSERT INTO credentials (user_id, username, username_key, email, email_key, password_hash, token_epoch,
                epoch_change)
            SELECT c.user_id, c.username, c.username_key, c.email, c.email_key, c.hash, c.epoch,
                CASE WHEN c.epoch > 1 THEN nextval('epoch_changes') END
            FROM unnest(credential_commands, user_ids, usernames, username_keys, emails, email_keys, password_hashes,
                token_epochs) AS c (n, user_id, username, username_key, email, email_key, hash, epoch)
            WHERE codes[c.n] = 0;

            UPDATE credentials AS k
            SET password_hash = p.hash, token_epoch = k.token_epoch + 1, epoch_change = nextval('epoch_changes')
            FROM unnest(reset_commands, reset_users, reset_hashes) AS p (n, user_id, hash)
            WHERE k.user_id = p.user_id AND codes[p.n] = 0 AND p.hash IS NOT NULL;

            INSERT INTO erasures (user_id, position, username, email)
            SELECT p.user_id, positions[p.n], k.username, k.email
            FROM unnest(reset_commands, reset_users, reset_hashes) AS p (n, user_id, hash)
            LEFT JOIN credentials AS k ON k.user_id = p.user_id
            WHERE codes[p.n] = 0 AND p.hash IS NULL
            ON CONFLICT (user_id) DO NOTHING;
            DELETE FROM credentials AS k
            USING unnest(reset_commands, reset_users, reset_hashes) AS p (n, user_id, hash)
            WHERE k.user_id = p.user_id AND codes[p.n] = 0 AND p.hash IS NULL;
            DELETE FROM answers AS a
            USING unnest(reset_commands, reset_users, reset_hashes) AS p (n, user_id, hash)
            WHERE a.owner = p.user_id::text AND codes[p.n] = 0 AND p.hash IS NULL;

            -- What is in the way here is an answer that has had its time. It gets a new id: they rise with time.
            INSERT INTO answers (owner, route, key, fingerprint, body, position, stored_at)
            SELECT a.owner, a.route, a.key, a.fingerprint, a.body, positions[a.n], a.stored_at
            FROM unnest(answer_commands, owners, routes, keys, fingerprints, bodies, stored_ats)
                AS a (n, owner, route, key, fingerprint, body, stored_at)
            WHERE codes[a.n] = 0
            ON CONFLICT (owner, route, key) DO UPDATE
            SET id = excluded.id, fingerprint = excluded.fingerprint, body = excluded.body,
                position = excluded.position, stored_at = excluded.stored_at;
        END IF;

        IF remembers THEN
            INSERT INTO commands (command_id, position, version, recorded_at)
            SELECT command_ids[n], positions[n], versions[n], recorded
            FROM generate_subscripts(command_ids, 1) AS n
            WHERE codes[n] = 0 AND remembered[n];
        END IF;

        RETURN QUERY
        SELECT n, codes[n], positions[n], versions[n], a.fingerprint, a.body, a.position, a.stored_at
        FROM generate_subscripts(command_ids, 1) AS n
        LEFT JOIN answers AS a ON a.id = standing[n] AND codes[n] = 5
        WHERE codes[n] >= 0;
    END LOOP;

    IF prune_step > 0 THEN
        DELETE FROM answers AS a
        WHERE a.stored_at <= recorded - lifetime
            AND a.id IN (SELECT o.id FROM answers AS o ORDER BY o.id LIMIT prune_step);
        GET DIAGNOSTICS pruned_answers = ROW_COUNT;
        DELETE FROM commands AS c
        WHERE c.recorded_at <= recorded - lifetime
            AND c.id IN (SELECT o.id FROM commands AS o ORDER BY o.id LIMIT prune_step);
        GET DIAGNOSTICS pruned_commands = ROW_COUNT;
        command := 0;
        code := (greatest(pruned_answers, pruned_commands) = prune_step)::integer;
        RETURN NEXT;
    END IF;
END
$$;
