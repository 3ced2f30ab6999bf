-- Deletes what has expired, and looks again at the moment of deletion: a list of ids would delete what was claimed since.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now),
expired AS MATERIALIZED (
    SELECT id FROM {records} WHERE expires_at <= (SELECT now FROM t)
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
DELETE FROM {records} r USING expired, t WHERE r.id = expired.id AND r.expires_at <= t.now
