-- A value is a head of fixed length, meta and body; `src/value.rs` says what is where. Positions count from one.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local HEAD = 112

local function number(value, at) return (struct.unpack('<i8', value, at)) end
local function bytes(micros) return struct.pack('<i8', micros) end
local function state(head) return string.byte(head, 2) end
local function owner(head) return string.sub(head, 4, 19) end
local function expires(head) return number(head, 61) end
local function lease_until(head) return number(head, 69) end
-- Redis counts in milliseconds: it must not be earlier than what the record says.
local function until_ms(micros) return string.format('%d', math.ceil(micros / 1000)) end

-- The record behind a key, or nothing; one that has expired by the microsecond is nothing. What is no record, or one of a
-- version that nobody here can read, is never written over.
local function live(value)
    if not value or #value == 0 then return nil end
    local version = string.byte(value, 1)
    if #value < HEAD or version < 1 or version > 2 then error({ err = 'CORRUPT what is stored is no record' }) end
    return expires(value) > now and value or nil
end

-- A server that has become a replica knows what was; what is only a primary may say. The write changes nothing, since no
-- expiry is that early.
local function as_primary(key)
    local said = redis.pcall('PEXPIREAT', key, '1', 'GT')
    if type(said) == 'table' and string.find(said.err, 'READONLY', 1, true) then error(said) end
end

-- What is replayed must be with the replicas that are waited for: the expiry is written again, with what it was.
local function read_for_good(key, stored, waits)
    if waits and state(stored) ~= 0 then redis.call('PEXPIREAT', key, until_ms(expires(stored))) else as_primary(key) end
    return { now, stored }
end

-- A lease is never cut short: a renewal that was held up must not undo a later one. And it is never what it was: a claim that
-- was made again is told from the first one by it.
local function renew(key, head, lease, retention)
    local lapses = math.max(lease_until(head) + 1, now + lease)
    redis.call('SETRANGE', key, 60, bytes(lapses + retention) .. bytes(lapses))
    redis.call('PEXPIREAT', key, until_ms(lapses + retention))
end
