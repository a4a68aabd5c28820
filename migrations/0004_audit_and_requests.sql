-- Who changed what, and the answers to requests that may be repeated. Owned by chatfn-registry.

-- Who made a version. Unknown for older ones.
ALTER TABLE registry.versions ADD COLUMN author text NOT NULL DEFAULT '';

-- One row per change, written by the transaction that makes it.
CREATE TABLE registry.audit_entries (
    account        text COLLATE "C" NOT NULL,
    -- When the change was made: the clock, not the transaction's start, so that changes of one thing, which wait for
    -- each other, are in order.
    entry_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    uid            uuid        NOT NULL DEFAULT gen_random_uuid(),
    caller         text        NOT NULL,
    -- Name of the action in the contract, for example AUDIT_ACTION_CREATE_FUNCTION.
    action         text        NOT NULL,
    -- Resource name of what was changed.
    resource       text COLLATE "C" NOT NULL,
    -- Digests and versions are absent where there was nothing, or for what has none.
    before_digest  text,
    before_version bigint,
    after_digest   text,
    after_version  bigint,
    changed_fields text[]      NOT NULL DEFAULT '{}',
    message        text        NOT NULL DEFAULT '',
    request_id     uuid,
    error_reason   text        NOT NULL DEFAULT '',

    CONSTRAINT audit_entries_pkey PRIMARY KEY (account, entry_time, uid)
);

-- The history of one thing.
CREATE INDEX audit_entries_by_resource ON registry.audit_entries (account, resource, entry_time, uid);
-- What is old enough to be removed.
CREATE INDEX audit_entries_by_time ON registry.audit_entries (entry_time);

CREATE FUNCTION registry.refuse_audit_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an entry of the audit never changes' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER audit_entries_never_change
    BEFORE UPDATE ON registry.audit_entries
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_audit_update();

-- Answers to requests with a request_id, for repetitions. Written by the transaction that makes the change; the
-- primary key makes a repetition wait for it.
CREATE TABLE registry.requests (
    account     text COLLATE "C" NOT NULL,
    caller      text COLLATE "C" NOT NULL,
    request_id  uuid        NOT NULL,
    -- Recognises the request: SHA-256 of it, keyed where it holds a secret's value.
    fingerprint bytea       NOT NULL,
    -- The answer, as on the wire.
    response    bytea       NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT requests_pkey PRIMARY KEY (account, caller, request_id)
);

-- What is old enough to be removed.
CREATE INDEX requests_by_time ON registry.requests (create_time);
