-- Notes something about the store itself, once for all or anew. Also when the memory is full: a swap away is the way out.
if ARGV[3] == 'once' then return redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
