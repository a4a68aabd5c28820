-- The days that events, outcomes and attempts are kept by. Migration 9 makes partitions of them; this file and the
-- next one prepare it, so that it reads no table.
--
-- A sequence number tells its day: the numbers of a day start at (days since 1970) * 2^32, in every lane. So what belongs
-- together (lane, sequence) lies in partitions of the same bounds, keys need no further column, and a lane's numbers still
-- only rise. No lane gives 2^32 numbers in a day; if one did, they would go into the next day's partition.
CREATE TABLE ingest.days (
    day            date        PRIMARY KEY,
    -- What the names of its partitions end in.
    suffix         text        NOT NULL UNIQUE,
    first_sequence bigint      NOT NULL UNIQUE,
    -- When it began to take events: those go into the last day that is open. NULL: prepared only.
    open_time      timestamptz
);

-- All that was recorded before there were days counts as the day before this migration.
INSERT INTO ingest.days (day, suffix, first_sequence, open_time)
VALUES ((now() AT TIME ZONE 'UTC')::date - 1, 'before', -9223372036854775808, now());

CREATE FUNCTION ingest.first_sequence(of_day date) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (of_day - date '1970-01-01')::bigint << 32;

-- 2026-01-01, before the first day.
ALTER TABLE ingest.events ADD CONSTRAINT events_before_days_check CHECK (sequence < 87849261072384) NOT VALID;
ALTER TABLE ingest.outcomes ADD CONSTRAINT outcomes_before_days_check CHECK (sequence < 87849261072384) NOT VALID;
ALTER TABLE ingest.attempts ADD CONSTRAINT attempts_before_days_check CHECK (sequence < 87849261072384) NOT VALID;
