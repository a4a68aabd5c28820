-- Since when no event has been dropped: of one that may have been recorded before, nobody can tell whether it was. Settings cannot tell,
-- either: they change, and differ among replicas.
ALTER TABLE ingest.days ADD COLUMN kept_since timestamptz;

-- Until now this was not written down: of a database from before, whatever is missing between the days that are there counts as dropped.
-- It may be that nobody was there to open them; then events that happened before are refused that could be recorded, until days as old are
-- dropped anyway, or somebody who knows better sets this to NULL. What was dropped had ended a day before, at least.
UPDATE ingest.days SET kept_since = (
    SELECT least(max(d.open_time) + interval '1 minute', now() - interval '1 day')
    FROM (
        SELECT p.day, p.first_sequence, p.open_time, lag(p.day) OVER (ORDER BY p.first_sequence) AS previous FROM ingest.days p
        WHERE to_regclass(format('ingest.%I', 'events_' || p.suffix)) IS NOT NULL
    ) d
    WHERE d.open_time IS NOT NULL AND d.first_sequence > -9223372036854775808 AND d.previous IS DISTINCT FROM d.day - 1
    HAVING count(*) > 0
)
WHERE day = (SELECT max(day) FROM ingest.days WHERE open_time IS NOT NULL);

-- As in migration 9, and remembers what it drops.
CREATE OR REPLACE FUNCTION ingest.drop_partition(part text, old_day date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    day ingest.days;
    next bigint;
    latest date;
BEGIN
    SELECT d.* INTO day FROM ingest.days d WHERE d.day = old_day;
    SELECT max(d.day) INTO latest FROM ingest.days d WHERE d.open_time IS NOT NULL;
    IF day.day IS NULL OR part NOT IN ('events', 'outcomes', 'attempts') OR latest IS NULL OR old_day >= latest THEN
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
    -- Again, too, if it was dropped before this was written down. A day that was never opened took no events. Who opens one notes the time,
    -- and then waits for those who record events; the minute is more than that takes.
    IF day.open_time IS NOT NULL THEN
        UPDATE ingest.days d
        SET kept_since = greatest(d.kept_since, (SELECT max(k.kept_since) FROM ingest.days k), (
            SELECT min(l.open_time) + interval '1 minute' FROM ingest.days l WHERE l.first_sequence > day.first_sequence
        ))
        -- The last one to be dropped.
        WHERE d.day = latest;
    END IF;
    RETURN true;
END
$$;
