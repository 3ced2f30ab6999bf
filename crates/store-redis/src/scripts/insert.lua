-- Claims an id, or takes an orphan over, or reads what is there. A claim is answered by when it lapses if it was written
-- anew, and by 0 if it was there already.
local key, me, fingerprint, lease, retention = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local meta, takes_over, waits = ARGV[5], ARGV[6], ARGV[7] == '1'
local wanted = '\0'
local stored = live(redis.call('GET', key))

if stored then
    if owner(stored) == me then
        if state(stored) ~= 0 then return read_for_good(key, stored, waits) end
        renew(key, stored, lease, retention)
        return { now, 0 }
    end
    local orphaned = state(stored) >= 16 or (state(stored) == 0 and lease_until(stored) <= now)
    if not (orphaned and owner(stored) == takes_over and string.sub(stored, 20, 52) == fingerprint) then
        return read_for_good(key, stored, waits)
    end
    wanted = string.sub(stored, 3, 3)
end
local lapses = now + lease
local head = '\1\0' .. wanted .. me .. fingerprint .. bytes(now) .. bytes(lapses + retention) .. bytes(lapses)
    .. string.rep('\0', 32) .. struct.pack('<HH', HEAD, #meta)
redis.call('SET', key, head .. meta, 'PXAT', until_ms(lapses + retention))
return { now, lapses }
