-- Says that a writer is there. KEYS: writers. ARGV: the writer, for how long.
local moment = now()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', moment)
redis.call('ZADD', KEYS[1], moment + tonumber(ARGV[2]), ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
