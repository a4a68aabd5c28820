-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS parked_halted_idx ON ingest.parked (account, sequence) WHERE kind = 1;
