-- Secrets of accounts. A value is encrypted by a data key of its own, and that by a master key, which is not in
-- the database (services/registry/src/secrets/). Owned by chatfn-registry.
CREATE TABLE registry.secrets (
    account     text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    -- Tells a secret from a later one of the same name; a part of the etag.
    uid         uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- Counts how often the value was set; the other part of the etag.
    revision    bigint      NOT NULL DEFAULT 1,
    -- Which master key wraps the data key. A rotation changes this column and the next, and nothing else.
    key_id      text COLLATE "C" NOT NULL,
    wrapped_key bytea       NOT NULL,
    ciphertext  bytea       NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT secrets_pkey PRIMARY KEY (account, key)
);

-- What a rotation still has to do.
CREATE INDEX secrets_by_key_id ON registry.secrets (key_id, account, key);
