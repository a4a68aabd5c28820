-- The control plane: functions, their versions, and what is live. Owned by chatfn-registry.

CREATE SCHEMA registry;

-- Functions, each with its draft. The primary key is the promise that an account has at most one
-- function per template. Ids sort by their bytes (COLLATE "C"), so that pages do not depend on a locale.
CREATE TABLE registry.functions (
    account      text COLLATE "C" NOT NULL,
    template     text COLLATE "C" NOT NULL,
    -- Tells a function from a later one of the same name; a part of the etag.
    uid          uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- Counts the changes of draft and deployment; the other part of the etag.
    revision     bigint      NOT NULL DEFAULT 1,
    display_name text        NOT NULL,
    description  text        NOT NULL,
    source       text        NOT NULL,
    settings     jsonb       NOT NULL,
    -- SHA-256 of source and settings: equal to the live version's when nothing is left to deploy.
    draft_digest text        NOT NULL,
    -- Why the last deploy failed.
    build_error  jsonb,
    create_time  timestamptz NOT NULL DEFAULT now(),
    -- When the draft or the deployment last changed.
    update_time  timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT functions_pkey PRIMARY KEY (account, template)
);

-- Versions, which never change. They go with their function.
CREATE TABLE registry.versions (
    account     text COLLATE "C" NOT NULL,
    template    text COLLATE "C" NOT NULL,
    number      bigint      NOT NULL,
    source      text        NOT NULL,
    settings    jsonb       NOT NULL,
    digest      text        NOT NULL,
    message     text        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT versions_pkey PRIMARY KEY (account, template, number),
    CONSTRAINT versions_number_check CHECK (number >= 1),
    CONSTRAINT versions_function_fkey FOREIGN KEY (account, template)
        REFERENCES registry.functions (account, template) ON DELETE CASCADE
);

CREATE FUNCTION registry.refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a row of %.% never changes', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation', HINT = 'Deploy a new version instead.';
END
$$;

CREATE TRIGGER versions_never_change
    BEFORE UPDATE ON registry.versions
    FOR EACH ROW EXECUTE FUNCTION registry.refuse_update();

-- What is live. A row stays when its function is undeployed or deleted, so that whoever reads the changes
-- since some revision sees the removal, and so that a version number never means two different things:
-- a function that is created again goes on counting where the deleted one stopped.
CREATE TABLE registry.deployments (
    account      text COLLATE "C" NOT NULL,
    template     text COLLATE "C" NOT NULL,
    live_version bigint,
    last_version bigint      NOT NULL,
    -- Revision of the deployments at which this row last changed.
    revision     bigint      NOT NULL,
    -- When the live version went live, or was taken out of service.
    deploy_time  timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT deployments_pkey PRIMARY KEY (account, template),
    CONSTRAINT deployments_revision_key UNIQUE (revision),
    CONSTRAINT deployments_last_version_check CHECK (live_version <= last_version),
    -- Refuses to delete a function while it is live.
    CONSTRAINT deployments_version_fkey FOREIGN KEY (account, template, live_version)
        REFERENCES registry.versions (account, template, number)
);

-- The revision of the deployments. One row, which each transaction that changes a deployment locks last
-- and holds until it commits: so the order of revisions is the order of commits, and whoever has read all
-- rows up to a revision will never find an older one later. A sequence does not promise that.
CREATE TABLE registry.deployment_revision (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint  NOT NULL
) WITH (fillfactor = 10);

INSERT INTO registry.deployment_revision (revision) VALUES (0);
