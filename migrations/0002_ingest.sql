-- What event-ingest owns. Three kinds of tables, so that none is written in a way that hurts another:
--   grow only   events, outcomes, latches      (retention drops old days; nothing is ever updated)
--   journal     attempts                       (one insert before a run, one update after it)
--   small       lane_heads, lanes, parked, replicas   (updated all the time, always in cache)
-- Names and ids are ASCII by contract; COLLATE "C" makes their comparison a memcmp.
CREATE SCHEMA ingest;

-- Publishing locks the heads of its lanes until it has committed, so that the order of sequence numbers is the
-- order of commits and a reader that goes by "sequence > the last I saw" skips nothing. Apart from
-- ingest.lanes, so that publishing and dispatch never wait for each other.
CREATE TABLE ingest.lane_heads (
    lane          smallint PRIMARY KEY CHECK (lane BETWEEN 0 AND 63),
    next_sequence bigint   NOT NULL DEFAULT 1
) WITH (fillfactor = 10);

-- Who runs a lane. The epoch grows with each take-over; every write of a run carries it.
CREATE TABLE ingest.lanes (
    lane        smallint PRIMARY KEY CHECK (lane BETWEEN 0 AND 63),
    owner       uuid,
    epoch       bigint   NOT NULL DEFAULT 0,
    lease_until timestamptz,
    -- Every unfinished event up to here belongs to a conversation that has a row in ingest.parked. A hint
    -- for the next owner where to start reading; it may move backwards.
    cursor      bigint   NOT NULL DEFAULT 0,
    CONSTRAINT lanes_lease_check CHECK ((owner IS NULL) = (lease_until IS NULL))
) WITH (fillfactor = 10);

INSERT INTO ingest.lane_heads (lane) SELECT generate_series(0, 63);
INSERT INTO ingest.lanes (lane) SELECT generate_series(0, 63);

-- Which processes share the lanes.
CREATE TABLE ingest.replicas (
    replica     uuid PRIMARY KEY,
    alive_until timestamptz NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE ingest.events (
    lane            smallint    NOT NULL,
    sequence        bigint      NOT NULL,
    account         text        COLLATE "C" NOT NULL,
    event_id        text        COLLATE "C" NOT NULL,
    template        text        COLLATE "C" NOT NULL,
    conversation_id text        COLLATE "C" NOT NULL,
    -- JSON as it was received. bytea, because jsonb refuses \u0000 and changes numbers.
    payload         bytea       NOT NULL,
    -- JSON: [{"key": …, "value": …}]; NULL when there are none.
    headers         bytea,
    -- SHA-256 of all that makes two publications the same event.
    content_hash    bytea       NOT NULL,
    occur_time      timestamptz,
    deliver_by      timestamptz,
    -- W3C traceparent of the call that published it.
    traceparent     text        COLLATE "C",
    accept_time     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT events_pkey PRIMARY KEY (lane, sequence),
    CONSTRAINT events_account_event_id_key UNIQUE (account, event_id)
);

-- ListDeliveries.
CREATE INDEX events_account_accept_time_idx ON ingest.events (account, accept_time, lane, sequence);
-- GetConversation; reading on in a conversation that was parked.
CREATE INDEX events_conversation_idx ON ingest.events (account, conversation_id, sequence);

-- The first event of each template that fires once per conversation.
CREATE TABLE ingest.latches (
    account         text   COLLATE "C" NOT NULL,
    conversation_id text   COLLATE "C" NOT NULL,
    template        text   COLLATE "C" NOT NULL,
    event_id        text   COLLATE "C" NOT NULL,
    CONSTRAINT latches_pkey PRIMARY KEY (account, conversation_id, template)
);

-- The primary key is the promise that an event ends in one outcome.
CREATE TABLE ingest.outcomes (
    lane           smallint    NOT NULL,
    sequence       bigint      NOT NULL,
    -- The number of a terminal chatfn.ingest.v1.DeliveryState.
    state          smallint    NOT NULL CHECK (state BETWEEN 3 AND 7),
    reason         text        COLLATE "C" NOT NULL DEFAULT '',
    reason_message text        NOT NULL DEFAULT '',
    finish_time    timestamptz NOT NULL DEFAULT now(),
    -- Epoch of the lane's owner that wrote it; 0: written together with the event.
    epoch          bigint      NOT NULL,
    -- Copied from the event for the index below.
    account        text        COLLATE "C" NOT NULL,
    accept_time    timestamptz NOT NULL,
    CONSTRAINT outcomes_pkey PRIMARY KEY (lane, sequence)
);

-- ListDeliveries by a state that is rare among the account's events. SUCCEEDED (3) is not.
CREATE INDEX outcomes_unusual_idx ON ingest.outcomes (account, state, accept_time, lane, sequence)
    WHERE state <> 3;

-- A row is committed before the run starts, so that an event which kills the process has used up an attempt.
-- The update that adds the report stays on the row's page.
CREATE TABLE ingest.attempts (
    lane                   smallint    NOT NULL,
    sequence               bigint      NOT NULL,
    number                 integer     NOT NULL CHECK (number >= 1),
    epoch                  bigint      NOT NULL,
    start_time             timestamptz NOT NULL DEFAULT now(),
    -- NULL: it runs, or its process died.
    finish_time            timestamptz,
    -- An encoded chatfn.invoker.v1.RunReport; NULL when none came.
    report                 bytea,
    platform_error         text        COLLATE "C" NOT NULL DEFAULT '',
    platform_error_message text        NOT NULL DEFAULT '',
    CONSTRAINT attempts_pkey PRIMARY KEY (lane, sequence, number)
) WITH (fillfactor = 50);

-- Events that wait for another attempt. Each stands for the rest of its conversation, too.
CREATE TABLE ingest.parked (
    lane              smallint    NOT NULL,
    sequence          bigint      NOT NULL,
    account           text        COLLATE "C" NOT NULL,
    conversation_id   text        COLLATE "C" NOT NULL,
    next_attempt_time timestamptz NOT NULL,
    CONSTRAINT parked_pkey PRIMARY KEY (lane, sequence)
) WITH (fillfactor = 50);

CREATE INDEX parked_account_idx ON ingest.parked (account);

-- Where each event stands. States below 3 are not outcomes: 1 PENDING, 2 RETRYING.
CREATE VIEW ingest.deliveries AS
SELECT e.lane, e.sequence, e.account, e.event_id, e.template, e.conversation_id,
       e.occur_time, e.deliver_by, e.accept_time,
       coalesce(o.state, CASE WHEN p.sequence IS NULL THEN 1 ELSE 2 END::smallint) AS state,
       coalesce(o.reason, '') AS reason, coalesce(o.reason_message, '') AS reason_message,
       o.finish_time, p.next_attempt_time
FROM ingest.events e
LEFT JOIN ingest.outcomes o ON o.lane = e.lane AND o.sequence = e.sequence
LEFT JOIN ingest.parked p ON p.lane = e.lane AND p.sequence = e.sequence;
