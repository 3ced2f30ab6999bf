-- A value is a head of fixed length, meta and body; `src/value.rs` says what is where. Positions count from one. All times are
-- milliseconds before the server lets the key expire, so that its clock is the only one.
local HEAD = 104

local function number(value, at) return (struct.unpack('<i8', value, at)) end
local function bytes(ms) return struct.pack('<i8', ms) end
local function state(head) return string.byte(head, 2) end
local function owner(head) return string.sub(head, 4, 19) end
-- How long before that it was claimed, and the lease lapses.
local function claimed_before(head) return number(head, 53) end
local function lapses_before(head) return number(head, 61) end

local function corrupt() error({ err = 'CORRUPT what is stored is no record' }) end

-- The record behind a key, or nothing. What is no record, or one of a version that nobody here can read, is never written over.
local function live(value)
    if not value or #value == 0 then return nil end
    local version = string.byte(value, 1)
    if #value < HEAD or version < 1 or version > 2 then corrupt() end
    return value
end

-- Until the key of a record expires.
local function left(key)
    local left = redis.call('PTTL', key)
    if left < 0 then corrupt() end
    return left
end

-- The server lets a key expire once its last millisecond is over; so does a lease lapse.
local function is_lapsed(key, head) return state(head) == 0 and left(key) < lapses_before(head) end

-- At what time, by the server's clock.
local function lapses_at(key, head) return redis.call('PEXPIRETIME', key) - lapses_before(head) end

-- The expiry is written again, with what it was: whoever waits for replicas waits for what was written first.
local function touch(key) redis.call('PEXPIREAT', key, redis.call('PEXPIRETIME', key)) end

-- A server that has become a replica knows what was; what is only a primary may say. The write changes nothing, since no
-- expiry is that early.
local function as_primary(key)
    local said = redis.pcall('PEXPIREAT', key, '1', 'GT')
    if type(said) == 'table' and string.find(said.err, 'READONLY', 1, true) then error(said) end
end

-- What is replayed must be with the replicas that are waited for.
local function read_for_good(key, stored, waits)
    -- First, for what is in its last millisecond is gone when it is touched.
    local left = left(key)
    if waits and state(stored) ~= 0 then touch(key) else as_primary(key) end
    return { left, stored }
end

-- A lease is never cut short: a renewal that was held up must not undo a later one. And it is never what it was: a claim that
-- was made again is told from the first one by it.
local function renew(key, head, lease, retention)
    local before = left(key)
    local after = math.max(before - lapses_before(head) + 1, lease) + retention
    redis.call('SETRANGE', key, 52, bytes(claimed_before(head) + after - before) .. bytes(retention))
    redis.call('PEXPIRE', key, after)
end
