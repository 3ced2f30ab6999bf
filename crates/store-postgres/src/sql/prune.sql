-- Deletes what has expired, and looks again at the moment of deletion: a list of ids would delete what was claimed since. What
-- was only noted too early is noted anew. Answers how many were deleted, and how many were looked at.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now),
due AS MATERIALIZED (
    SELECT id FROM {records} WHERE look_at <= (SELECT now FROM t)
    ORDER BY look_at LIMIT $1 FOR UPDATE SKIP LOCKED
),
deleted AS (
    DELETE FROM {records} r USING due, t WHERE r.id = due.id AND r.expires_at <= t.now RETURNING r.id
),
noted AS (
    UPDATE {records} r SET look_at = r.expires_at FROM due, t WHERE r.id = due.id AND r.expires_at > t.now
)
SELECT (SELECT count(*) FROM deleted), (SELECT count(*) FROM due)
