-- Keeps everybody from writing the current generation. KEYS: catalogue, fence, claim.
-- ARGV: claim's token, fence's token, time to live.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
    return { 'unclaimed' }
end
if redis.call('EXISTS', KEYS[2]) == 1 then
    return { 'fenced' }
end
local current = redis.call('HGET', KEYS[1], 'current') or '0'
local most = furthest(KEYS[1] .. ':' .. current .. ':state')
redis.call('SET', KEYS[2], ARGV[2] .. ' ' .. current, 'PX', ARGV[3])
return { 'done', text(most), current }
