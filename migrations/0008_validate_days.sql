-- Reads the tables while everybody goes on working, so that migration 9 need not read them while nobody can.
ALTER TABLE ingest.events VALIDATE CONSTRAINT events_before_days_check;
ALTER TABLE ingest.outcomes VALIDATE CONSTRAINT outcomes_before_days_check;
ALTER TABLE ingest.attempts VALIDATE CONSTRAINT attempts_before_days_check;
