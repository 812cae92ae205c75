-- Sets whether a source's last writer ended well. KEYS: state, attempts. ARGV: token, source, 0 or 1.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'k:' .. ARGV[2], ARGV[3])
if ARGV[3] == '1' then
    redis.call('HDEL', KEYS[2], ARGV[2])
end
return 1
