-- Prolongs a key that is still one's own. KEYS: key. ARGV: its value, time to live.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
