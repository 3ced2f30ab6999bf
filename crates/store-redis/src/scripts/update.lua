-- Moves a record on, if the owner says so. Answers: 0 not found, 1 applied, 2 already applied, 3 fenced.
local key, me, change, retention = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local waits = ARGV[9] == '1'
-- With meta, unless it is long.
local head = live(redis.call('GETRANGE', key, 0, HEAD + 63))
if not head then
    -- Whoever waits for replicas waits for what made it go.
    if waits then redis.call('SET', key, '', 'PX', 1) end
    return 0
end
if owner(head) ~= me then return 3 end
local is = state(head)

-- Whoever watches reads it again.
local function tell()
    -- A hint that cannot be given is no reason to fail what was done.
    if string.byte(head, 3) == 1 then redis.pcall('PUBLISH', ARGV[4], ARGV[5]) end
end

local function again()
    if waits then touch(key) end
    return 2
end

local function settle(code, digest, body)
    -- With what a later version may have put before meta.
    local head_length, meta_length = struct.unpack('<HH', head, 101)
    local kept = string.sub(head, 101, head_length + meta_length)
    if head_length + meta_length > #head then
        kept = kept .. redis.call('GETRANGE', key, #head, head_length + meta_length - 1)
    end
    local settled = string.sub(head, 1, 1) .. string.char(code) .. '\0' .. string.sub(head, 4, 52)
        .. bytes(claimed_before(head) + retention - left(key)) .. bytes(0) .. digest .. kept
    redis.call('SET', key, settled .. body, 'PX', math.max(retention, 1))
    tell()
    return 1
end

if change == 'complete' then
    -- 1: with its body, 2: without it, 17: halted by a shutdown.
    if is == 0 or is == 17 then return settle(tonumber(ARGV[6]), ARGV[7], ARGV[8]) end
    if is < 16 and string.sub(head, 69, 100) == ARGV[7] then return again() end
    return 3
elseif change == 'renew' then
    if is ~= 0 then return 3 end
    renew(key, head, tonumber(ARGV[6]), retention)
    return 1
elseif change == 'halt' then
    if is == 0 then return settle(tonumber(ARGV[6]), string.rep('\0', 32), '') end
    return is >= 16 and again() or 3
end

-- Release, forget, and a claim that is given back: only if nobody has extended it since.
local may_go
if change == 'release' then
    may_go = is == 0
elseif change == 'give_back' then
    may_go = is == 0 and lapses_at(key, head) == tonumber(ARGV[6])
else
    may_go = is ~= 0 or is_lapsed(key, head)
end
if not may_go then return 3 end
redis.call('DEL', key)
tell()
return 1
