-- The records. What operators look at has a column of its own; a settled record says in `state` what became of it.
CREATE TABLE {records} (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 32),
    owner bytea NOT NULL CHECK (octet_length(owner) = 16),
    state text NOT NULL,
    claimed_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Of a running request only.
    lease_until timestamptz,
    -- Somebody wants to hear of its end.
    wanted boolean NOT NULL DEFAULT false,
    fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 33),
    digest bytea CHECK (octet_length(digest) = 32),
    meta bytea NOT NULL,
    body bytea,
    CHECK ((state = 'processing') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('completed', 'not_kept')) = (digest IS NOT NULL))
);
CREATE INDEX ON {records} (expires_at);

-- Messages that were written in the same transaction as what they tell of.
CREATE TABLE {outbox} (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    payload bytea NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
