-- Which generation is current, and its token. KEYS: catalogue.
local current = redis.call('HGET', KEYS[1], 'current')
local token = current and redis.call('HGET', KEYS[1] .. ':' .. current .. ':state', 'token')
if not token then
    return { '0', '' }
end
return { current, token }
