-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS parked_halted_again_idx ON ingest.parked (account) WHERE attempts_before IS NOT NULL AND kind = 1;
