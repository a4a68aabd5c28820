-- A replay that fails again and again ends, and says why; a repeated CreateReplay finds the replay that it started.
ALTER TABLE ingest.replays
    -- Steps that failed in a row.
    ADD COLUMN failures integer NOT NULL DEFAULT 0,
    -- What the last of them failed of; with finish_time: why the replay ended. Empty: nothing failed.
    ADD COLUMN failure text NOT NULL DEFAULT '',
    -- The request_id of the call that started it; NULL: it had none.
    ADD COLUMN request_id uuid,
    -- The table is small.
    ADD CONSTRAINT replays_request_id_key UNIQUE (account, request_id);
