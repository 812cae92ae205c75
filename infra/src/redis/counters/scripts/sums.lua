-- A post's score: for each half-life with something in it (number, whole part, 2^-40 parts), ascending, packed as
-- doubles. Both parts are whole numbers, so that adding and taking back leaves no trace.
local UNIT = 1099511627776
local SUM = 24

local function merge(old, deltas)
    if #deltas == 0 then
        return old
    end
    -- From the end, as far back as something changes: the rest stays as it is. `deltas` descend, too.
    local low = deltas[#deltas][1]
    local kept, touched = #old, {}
    while kept > 0 do
        local life, whole, part = struct.unpack('<ddd', old, kept - SUM + 1)
        if life < low then
            break
        end
        touched[#touched + 1] = { life, whole, part }
        kept = kept - SUM
    end
    local i, j, out = 1, 1, {}
    while i <= #touched or j <= #deltas do
        local a, b = touched[i], deltas[j]
        local life, whole, part
        if a and (not b or a[1] > b[1]) then
            life, whole, part = a[1], a[2], a[3]
            i = i + 1
        elseif b and (not a or b[1] > a[1]) then
            life, whole, part = b[1], b[2], b[3]
            j = j + 1
        else
            life, whole, part = a[1], a[2] + b[2], a[3] + b[3]
            if part >= UNIT then
                part = part - UNIT
                whole = whole + 1
            end
            i = i + 1
            j = j + 1
        end
        if whole ~= 0 or part ~= 0 then
            out[#out + 1] = struct.pack('<ddd', life, whole, part)
        end
    end
    local packed = { string.sub(old, 1, kept) }
    for k = #out, 1, -1 do
        packed[#packed + 1] = out[k]
    end
    return table.concat(packed)
end

-- log2 of the score; nil for nothing. What is 120 half-lives older than the newest is beyond a double's digits.
local function score(sums)
    if #sums == 0 then
        return nil
    end
    local newest = struct.unpack('<d', sums, #sums - SUM + 1)
    local total = 0
    for at = #sums - SUM + 1, 1, -SUM do
        local life, whole, part = struct.unpack('<ddd', sums, at)
        if newest - life > 120 then
            break
        end
        total = total + (whole + part / UNIT) * math.ldexp(1, life - newest)
    end
    if total > 0 then
        return newest + math.log(total) / math.log(2)
    end
end
