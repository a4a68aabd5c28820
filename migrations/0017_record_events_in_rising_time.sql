-- Records events as migration 14 does, but what it gives as the time of acceptance rises with the sequence numbers of a lane. What the
-- function takes, gives and does is the same otherwise, so releases that know only that one go on with this; what its arrays are is
-- said in migration 13.
--
-- It was the time at which the transaction began. Of two that record events of one conversation, the one that began first may lock the
-- lane's head last, and so have the higher numbers with the earlier time: what goes by that time, as replays do, took such events
-- out of their order. Now it is the time at which the heads are locked.
CREATE OR REPLACE FUNCTION ingest.record_events(
    dedupe_days integer, head_lanes smallint[], head_counts bigint[],
    new_lanes smallint[], new_ranks bigint[], new_accounts text[], new_event_ids text[], new_templates text[],
    new_conversation_ids text[], new_payloads bytea[], new_headers bytea[], new_content_hashes bytea[],
    new_occur_times timestamptz[], new_deliver_bys timestamptz[], new_traceparents text[], new_fires_once boolean[],
    OUT firsts bigint[], OUT window_first bigint, OUT recorded_lanes smallint[], OUT recorded_sequences bigint[],
    OUT suppressed bigint, OUT accepted timestamptz
) LANGUAGE plpgsql
-- To plan these statements takes longer than to carry them out for a few events. But a plan is kept as long as the session, or until one of
-- its tables is analyzed or gets another partition, and was made when they were smaller. So it gets no choice but to look up each row.
SET plan_cache_mode = force_generic_plan SET enable_material = off SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today bigint;
    tomorrow bigint;
    head record;
    known bigint[];
BEGIN
    suppressed := 0;
    -- Until the commit no other day is opened: so all events of a day are visible before the next day has any. Each statement sees
    -- what was committed when it began, so this one comes first.
    PERFORM ingest.hold_day();
    SELECT max(latest.first_sequence), min(latest.first_sequence) INTO today, window_first
    FROM (
        SELECT d.first_sequence FROM ingest.days d WHERE d.open_time IS NOT NULL ORDER BY d.day DESC LIMIT dedupe_days + 1
    ) latest;

    -- The locks are taken in the order of lanes, so that committers never wait in a circle; the count makes Postgres take all
    -- of them before the first update. They last until the commit, so that the order of sequence numbers is that of commits.
    firsts := array_fill(0::bigint, ARRAY[64]);
    FOR head IN
        WITH locked AS MATERIALIZED (
            SELECT h.lane FROM ingest.lane_heads h WHERE h.lane = ANY (head_lanes) ORDER BY h.lane FOR UPDATE
        )
        UPDATE ingest.lane_heads h
        SET next_sequence = greatest(h.next_sequence, today) + taken.count
        FROM unnest(head_lanes, head_counts) AS taken(lane, count)
        WHERE h.lane = taken.lane AND (SELECT count(*) FROM locked) > 0
        RETURNING h.lane, h.next_sequence - taken.count AS first
    LOOP
        firsts[head.lane + 1] := head.first;
    END LOOP;
    -- Not now(), which is when this began: whoever waited for these heads may have begun before whoever had them.
    accepted := clock_timestamp();

    IF window_first < today THEN
        -- As a value, which no plan joins. Of small tables a plan may take an index that is bad for large ones; these do not grow any
        -- more, and whenever a day is opened another was prepared just before, after which all is planned anew.
        SELECT array_agg(i.position) INTO known
        FROM unnest(new_accounts, new_event_ids) WITH ORDINALITY AS i(account, event_id, position)
        WHERE (
            SELECT true FROM ingest.events e
            WHERE e.account = i.account AND e.event_id = i.event_id
              AND e.sequence >= window_first AND e.sequence < today
            LIMIT 1
        );
    END IF;

    -- Rows go in by id, so that two transactions with the same new ids wait for each other in one order.
    WITH inserted AS (
        INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                   headers, content_hash, occur_time, deliver_by, traceparent, accept_time)
        SELECT i.lane, firsts[i.lane + 1] + i.rank, i.account, i.event_id, i.template, i.conversation_id, i.payload,
               i.headers, i.content_hash, i.occur_time, i.deliver_by, i.traceparent, accepted
        FROM unnest(new_lanes, new_ranks, new_accounts, new_event_ids, new_templates, new_conversation_ids, new_payloads,
                    new_headers, new_content_hashes, new_occur_times, new_deliver_bys, new_traceparents) WITH ORDINALITY
            AS i(lane, rank, account, event_id, template, conversation_id, payload,
                 headers, content_hash, occur_time, deliver_by, traceparent, position)
        WHERE known IS NULL OR i.position <> ALL (known)
        ORDER BY i.account COLLATE "C", i.event_id COLLATE "C"
        -- Whichever unique key it is: that of account and event_id is each partition's own.
        ON CONFLICT DO NOTHING
        RETURNING lane, sequence
    )
    SELECT coalesce(array_agg(r.lane), '{}'), coalesce(array_agg(r.sequence), '{}')
    INTO recorded_lanes, recorded_sequences FROM inserted r;

    IF NOT true = ANY (new_fires_once) THEN
        RETURN;
    END IF;
    -- Of those that were recorded: each is looked for by its key, because joining what was inserted with what was to be would
    -- compare every row with every row. Days that are prepared ahead need not be looked into.
    SELECT coalesce(min(d.first_sequence), 9223372036854775807) INTO tomorrow
    FROM ingest.days d WHERE d.first_sequence > today;
    INSERT INTO ingest.latches (account, conversation_id, template, event_id)
    SELECT DISTINCT ON (i.account, i.conversation_id, i.template) i.account, i.conversation_id, i.template, i.event_id
    FROM unnest(new_lanes, new_ranks, new_accounts, new_event_ids, new_templates, new_conversation_ids, new_fires_once)
        AS i(lane, rank, account, event_id, template, conversation_id, fires_once)
    WHERE i.fires_once AND (
        SELECT true FROM ingest.events e
        WHERE e.lane = i.lane AND e.sequence = firsts[i.lane + 1] + i.rank
          AND e.sequence >= today AND e.sequence < tomorrow
    )
    ORDER BY i.account, i.conversation_id, i.template, i.rank
    ON CONFLICT DO NOTHING;

    -- Suppressed is what has not set its latch just now. Not whoever has another id: after the days over which ids are
    -- known, that which has fired may come again.
    INSERT INTO ingest.outcomes (lane, sequence, state, reason, reason_message, epoch, account, accept_time)
    SELECT i.lane, firsts[i.lane + 1] + i.rank, 5, 'ALREADY_FIRED',
           format('%s fires once per conversation, and event %s has fired it', i.template, l.event_id), 0, i.account,
           accepted
    FROM unnest(new_lanes, new_ranks, new_accounts, new_event_ids, new_templates, new_conversation_ids, new_fires_once)
        AS i(lane, rank, account, event_id, template, conversation_id, fires_once)
    JOIN ingest.latches l
        ON l.account = i.account AND l.conversation_id = i.conversation_id AND l.template = i.template
    WHERE i.fires_once AND NOT (l.event_id = i.event_id AND l.xmin = pg_current_xact_id()::xid)
      AND (
        SELECT true FROM ingest.events e
        WHERE e.lane = i.lane AND e.sequence = firsts[i.lane + 1] + i.rank
          AND e.sequence >= today AND e.sequence < tomorrow
    );
    GET DIAGNOSTICS suppressed = ROW_COUNT;
END
$$;
