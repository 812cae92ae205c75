-- Every generation as it stands. KEYS: catalogue.
local answer = {}
local current = redis.call('HGET', KEYS[1], 'current')
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if tonumber(field) then
        local base = KEYS[1] .. ':' .. field .. ':'
        answer[#answer + 1] = {
            field,
            redis.call('HGET', KEYS[1], field),
            redis.call('HGETALL', base .. 'state'),
            redis.call('HLEN', base .. 'parked'),
            redis.call('ZCOUNT', base .. 'writers', now(), '+inf'),
        }
    end
end
return answer
