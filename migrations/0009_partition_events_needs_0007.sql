-- Makes events, outcomes and attempts partitioned tables; what they hold becomes the first partition of each, as it is.
--
-- A build that does not know migration 7 cannot record events any more, because no unique key over all partitions can
-- have (account, event_id); it goes on delivering those that there are. See "Partitions" in README.md for the order of steps.
DO $$
DECLARE
    deliveries text := pg_get_viewdef('ingest.deliveries'::regclass);
    part text;
    name text;
BEGIN
    DROP VIEW ingest.deliveries;
    FOREACH part IN ARRAY ARRAY['events', 'outcomes', 'attempts'] LOOP
        EXECUTE format('ALTER TABLE ingest.%1$I RENAME TO %1$s_before', part);
        -- An index shares the namespace of tables; what is attached below is found by what it indexes.
        FOR name IN SELECT indexname FROM pg_indexes WHERE schemaname = 'ingest' AND tablename = part || '_before' LOOP
            EXECUTE format('ALTER INDEX ingest.%I RENAME TO %I', name, name || '_before');
        END LOOP;
        EXECUTE format(
            'CREATE TABLE ingest.%1$I (LIKE ingest.%1$s_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS) '
            'PARTITION BY RANGE (sequence)', part);
        EXECUTE format('ALTER TABLE ingest.%1$I DROP CONSTRAINT %1$s_before_days_check', part);
    END LOOP;

    ALTER TABLE ingest.events ADD CONSTRAINT events_pkey PRIMARY KEY (lane, sequence);
    CREATE INDEX events_account_accept_time_idx ON ingest.events (account, accept_time, lane, sequence);
    CREATE INDEX events_conversation_idx ON ingest.events (account, conversation_id, sequence);
    ALTER TABLE ingest.outcomes ADD CONSTRAINT outcomes_pkey PRIMARY KEY (lane, sequence);
    CREATE INDEX outcomes_unusual_idx ON ingest.outcomes (account, state, accept_time, lane, sequence) WHERE state <> 3;
    ALTER TABLE ingest.attempts ADD CONSTRAINT attempts_pkey PRIMARY KEY (lane, sequence, number);

    -- The check of migration 7 spares reading them.
    FOREACH part IN ARRAY ARRAY['events', 'outcomes', 'attempts'] LOOP
        EXECUTE format(
            'ALTER TABLE ingest.%1$I ATTACH PARTITION ingest.%1$s_before FOR VALUES FROM (MINVALUE) TO (87849261072384)', part);
        EXECUTE format('ALTER TABLE ingest.%1$s_before DROP CONSTRAINT %1$s_before_days_check', part);
    END LOOP;
    EXECUTE 'CREATE VIEW ingest.deliveries AS ' || deliveries;
END
$$;

-- Days are the owner's: event-ingest needs no right to make or drop tables.

-- Makes the partitions of a day, in which nothing is recorded until the day is opened. Waits for no reader or writer.
CREATE FUNCTION ingest.prepare_day(new_day date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    suffix text := to_char(new_day, 'YYYYMMDD');
    part text;
BEGIN
    -- One after another; the number is "prepday" in ASCII.
    PERFORM pg_advisory_xact_lock(31650977394483577);
    IF EXISTS (SELECT FROM ingest.days d WHERE d.day = new_day) THEN
        RETURN;
    END IF;
    FOREACH part IN ARRAY ARRAY['events', 'outcomes', 'attempts'] LOOP
        EXECUTE format(
            'CREATE TABLE ingest.%1$I (LIKE ingest.%2$I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) %3$s',
            part || '_' || suffix, part, CASE part WHEN 'attempts' THEN 'WITH (fillfactor = 50)' ELSE '' END);
        IF part = 'events' THEN
            -- No two events of a day have the same id. What the days before have is looked up: they do not change.
            EXECUTE format('CREATE UNIQUE INDEX %I ON ingest.%I (account, event_id)',
                           'events_' || suffix || '_account_event_id_key', 'events_' || suffix);
        END IF;
        EXECUTE format('ALTER TABLE ingest.%I ATTACH PARTITION ingest.%I FOR VALUES FROM (%s) TO (%s)',
                       part, part || '_' || suffix,
                       ingest.first_sequence(new_day), ingest.first_sequence(new_day + 1));
    END LOOP;
    INSERT INTO ingest.days (day, suffix, first_sequence)
    VALUES (new_day, suffix, ingest.first_sequence(new_day));
END
$$;

-- From now on events go into this day's partition, once it is prepared. Waits until whoever is recording has committed, so
-- that a day's events are all there before the next day has any: what looks for an id in the days before finds it.
CREATE FUNCTION ingest.open_day(today date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    -- Never back, whatever the clock does.
    IF EXISTS (SELECT FROM ingest.days d WHERE d.open_time IS NOT NULL AND d.day >= today) THEN
        RETURN;
    END IF;
    -- The number is "openday" in ASCII.
    PERFORM pg_advisory_xact_lock(31367303360962937);
    UPDATE ingest.days d SET open_time = now() WHERE d.day = today AND d.open_time IS NULL
        AND NOT EXISTS (SELECT FROM ingest.days l WHERE l.open_time IS NOT NULL AND l.day > today);
END
$$;

-- The day that is open stays the last one until the end of the transaction. Must be a statement of its own, before those
-- that ask which day that is: a statement sees what was committed when it began.
CREATE FUNCTION ingest.hold_day() RETURNS void
    LANGUAGE sql AS 'SELECT pg_advisory_xact_lock_shared(31367303360962937)';

-- Drops a day's partition of one table; gives whether it is gone. A day that is open to events, or that has parked
-- or halted ones, or such that an operator takes up again, is kept. One table for each transaction: whoever waits for all readers of a table must hold no other.
CREATE FUNCTION ingest.drop_partition(part text, old_day date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    day ingest.days;
    next bigint;
BEGIN
    SELECT d.* INTO day FROM ingest.days d WHERE d.day = old_day;
    IF NOT FOUND OR part NOT IN ('events', 'outcomes', 'attempts') OR old_day >= (
        SELECT max(d.day) FROM ingest.days d WHERE d.open_time IS NOT NULL
    ) THEN
        RETURN false;
    END IF;
    SELECT min(d.first_sequence) INTO next FROM ingest.days d WHERE d.first_sequence > day.first_sequence;
    EXECUTE format('LOCK TABLE ONLY ingest.%I IN ACCESS EXCLUSIVE MODE', part);
    IF EXISTS (SELECT FROM ingest.parked p WHERE p.sequence >= day.first_sequence AND p.sequence < next)
        OR EXISTS (SELECT FROM ingest.interventions i WHERE i.sequence >= day.first_sequence AND i.sequence < next)
    THEN
        RETURN false;
    END IF;
    IF to_regclass(format('ingest.%I', part || '_' || day.suffix)) IS NOT NULL THEN
        EXECUTE format('ALTER TABLE ingest.%I DETACH PARTITION ingest.%I', part, part || '_' || day.suffix);
        EXECUTE format('DROP TABLE ingest.%I', part || '_' || day.suffix);
    END IF;
    RETURN true;
END
$$;
