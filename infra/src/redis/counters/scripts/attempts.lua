-- Sets how often a source's records have been tried. KEYS: state, attempts. ARGV: token, source, attempts as JSON.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
