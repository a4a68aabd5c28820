-- Tells revisions of the deployments apart that have the same number: after the database was replaced by an older copy,
-- numbers are given again. A watcher that comes back names its revision with its id, and goes on from there only if both
-- are still here. chatfn-registry keeps the newest ten thousand; who was away for longer gets a snapshot, as does whoever
-- names a revision that a release before this one has written.
CREATE TABLE registry.deployment_log (
    revision bigint PRIMARY KEY,
    id       uuid   NOT NULL DEFAULT gen_random_uuid()
);
