-- Removes a letter. KEYS: state, parked. ARGV: token, position.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
redis.call('HDEL', KEYS[2], ARGV[2])
return 1
