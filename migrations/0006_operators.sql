-- What operators do with deliveries: conversations that halt, replays, and the record of both.
-- Only adds: a release from before it takes a halted event for one that waits very long.

ALTER TABLE ingest.parked
    -- 0: waits for another attempt. 1: halted, waits for an operator. 2: taken up again by an operator, not started yet.
    -- In a conversation at most one row has the kinds 0 and 1.
    ADD COLUMN kind smallint NOT NULL DEFAULT 0 CONSTRAINT parked_kind_check CHECK (kind BETWEEN 0 AND 2),
    -- Why it waits, as in outcomes.
    ADD COLUMN reason text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN reason_message text NOT NULL DEFAULT '',
    -- When it came to be of its kind.
    ADD COLUMN park_time timestamptz NOT NULL DEFAULT now(),
    -- Attempts that do not count any more, because an operator took the event up again; NULL: none did.
    ADD COLUMN attempts_before integer,
    -- The idempotency key of its runs; NULL: the event's own.
    ADD COLUMN idempotency_key uuid;

-- Which conversations are halted; what covers an unfinished event. The table is small.
CREATE INDEX parked_conversation_idx ON ingest.parked (account, conversation_id);

-- What operators ask of the owner of a lane, which does it, fenced like all that it writes, and deletes the row.
CREATE TABLE ingest.interventions (
    lane            smallint NOT NULL,
    sequence        bigint   NOT NULL,
    number          bigint   NOT NULL GENERATED ALWAYS AS IDENTITY,
    -- The number of a chatfn.ingest.v1.OperatorAction.
    action          smallint NOT NULL CHECK (action BETWEEN 1 AND 3),
    actor           text     NOT NULL,
    replay          uuid,
    -- The key of the runs that follow; NULL: as before.
    idempotency_key uuid,
    create_time     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT interventions_pkey PRIMARY KEY (lane, sequence)
) WITH (fillfactor = 50);

CREATE INDEX interventions_number_idx ON ingest.interventions (lane, number);

-- What an event had come to before an operator acted: its history, and the audit of who did what.
CREATE TABLE ingest.superseded (
    lane            smallint    NOT NULL,
    sequence        bigint      NOT NULL,
    -- From 1 for each event.
    number          integer     NOT NULL CHECK (number >= 1),
    -- The number of a terminal chatfn.ingest.v1.DeliveryState, or of HALTED.
    state           smallint    NOT NULL CHECK (state BETWEEN 3 AND 8),
    reason          text        COLLATE "C" NOT NULL,
    reason_message  text        NOT NULL,
    finish_time     timestamptz NOT NULL,
    -- Attempts up to then.
    attempts        integer     NOT NULL,
    action          smallint    NOT NULL CHECK (action BETWEEN 1 AND 3),
    actor           text        NOT NULL,
    action_time     timestamptz NOT NULL DEFAULT now(),
    replay          uuid,
    -- The key of the runs that follow; NULL: the event's own.
    idempotency_key uuid,
    CONSTRAINT superseded_pkey PRIMARY KEY (lane, sequence, number)
);

CREATE INDEX superseded_replay_idx ON ingest.superseded (replay) WHERE replay IS NOT NULL;

-- Replays: what was asked for, by whom, and how far it is. The audit row is the job.
CREATE TABLE ingest.replays (
    replay          uuid        NOT NULL,
    account         text        COLLATE "C" NOT NULL,
    states          smallint[]  NOT NULL,
    template        text        COLLATE "C",
    conversation_id text        COLLATE "C",
    -- Events that were accepted from here on …
    start_time      timestamptz NOT NULL,
    -- … up to here.
    end_time        timestamptz NOT NULL,
    rerun           boolean     NOT NULL,
    events_per_second integer   NOT NULL CHECK (events_per_second >= 1),
    actor           text        NOT NULL,
    create_time     timestamptz NOT NULL DEFAULT now(),
    -- How far it is, and when it goes on.
    after_time      timestamptz NOT NULL,
    after_lane      smallint    NOT NULL DEFAULT -1,
    after_sequence  bigint      NOT NULL DEFAULT -1,
    next_step_time  timestamptz NOT NULL DEFAULT now(),
    requested       bigint      NOT NULL DEFAULT 0,
    finish_time     timestamptz,
    -- Who ended it early; NULL: nobody.
    cancel_actor    text,
    CONSTRAINT replays_pkey PRIMARY KEY (replay)
);

CREATE INDEX replays_account_idx ON ingest.replays (account, replay);
CREATE INDEX replays_running_idx ON ingest.replays (next_step_time) WHERE finish_time IS NULL;

-- States below 3 are not outcomes: 1 PENDING, 2 RETRYING. Nor is 8, HALTED.
CREATE OR REPLACE VIEW ingest.deliveries AS
SELECT e.lane, e.sequence, e.account, e.event_id, e.template, e.conversation_id,
       e.occur_time, e.deliver_by, e.accept_time,
       coalesce(o.state, CASE WHEN p.sequence IS NULL OR p.kind = 2 THEN 1 WHEN p.kind = 1 THEN 8 ELSE 2 END::smallint) AS state,
       coalesce(o.reason, p.reason, '') AS reason,
       coalesce(o.reason_message, p.reason_message, '') AS reason_message,
       o.finish_time,
       CASE WHEN p.kind = 0 THEN p.next_attempt_time END AS next_attempt_time
FROM ingest.events e
LEFT JOIN ingest.outcomes o ON o.lane = e.lane AND o.sequence = e.sequence
LEFT JOIN ingest.parked p ON p.lane = e.lane AND p.sequence = e.sequence;
