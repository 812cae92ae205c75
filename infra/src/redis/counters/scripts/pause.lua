-- Keeps everybody from writing a generation while it is read, between two batches.
-- KEYS: catalogue, fence. ARGV: generation, fence's token, time to live.
local _, begun = furthest(KEYS[1] .. ':' .. ARGV[1] .. ':state')
if begun or redis.call('EXISTS', KEYS[2]) == 1 then
    return { 'busy' }
end
redis.call('SET', KEYS[2], ARGV[2] .. ' ' .. ARGV[1], 'PX', ARGV[3])
return { 'done' }
