-- The functions of migration 9 run with their owner's rights, and everybody could call them: now only roles that may record
-- events can. New partitions have the grants of their table.

-- Gives a partition the grants that its table has. For the functions below, whose owner owns both.
CREATE FUNCTION ingest.copy_grants(from_table text, to_table text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT a.privilege_type AS privilege, a.is_grantable, a.grantee
        FROM pg_catalog.pg_class c
        CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.oid = format('ingest.%I', from_table)::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON TABLE ingest.%I TO %s%s', given.privilege, to_table,
                       CASE WHEN given.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END,
                       CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;

-- As in migration 9, and with the grants.
CREATE OR REPLACE FUNCTION ingest.prepare_day(new_day date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
        PERFORM ingest.copy_grants(part, part || '_' || suffix);
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

-- Temporary tables are looked at last, not first.
ALTER FUNCTION ingest.open_day(date) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION ingest.drop_partition(text, date) SET search_path = pg_catalog, pg_temp;

REVOKE EXECUTE ON FUNCTION ingest.copy_grants(text, text), ingest.prepare_day(date), ingest.open_day(date),
    ingest.drop_partition(text, date) FROM PUBLIC;

DO $$
DECLARE
    of_role text;
    of_day record;
    part text;
BEGIN
    -- event-ingest may have a role of its own, which could call them as everybody could.
    FOR of_role IN
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.oid = 'ingest.events'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION ingest.prepare_day(date), ingest.open_day(date), '
            'ingest.drop_partition(text, date) TO ' || of_role;
    END LOOP;
    -- Partitions that were made since migration 9.
    FOR of_day IN SELECT suffix FROM ingest.days LOOP
        FOREACH part IN ARRAY ARRAY['events', 'outcomes', 'attempts'] LOOP
            -- Retention may have dropped some of a day's already.
            IF to_regclass(format('ingest.%I', part || '_' || of_day.suffix)) IS NOT NULL THEN
                PERFORM ingest.copy_grants(part, part || '_' || of_day.suffix);
            END IF;
        END LOOP;
    END LOOP;
END
$$;
