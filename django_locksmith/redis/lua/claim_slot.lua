-- Grant a slot that was handed over to who claims it. All else goes on in acquire_slot.lua, where KEYS and so on stand.

local token, lease, wait, mode = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), ARGV[5]
local slots, names = tonumber(ARGV[6]), ARGV[7]
local number_of = names == '' and slots or slots + 0.5
if now_us > tonumber(ARGV[3]) then return {-2} end

local kept = redis.pcall('ZSCORE', lock, names)
local alive_until, queued, handed

-- Who has not been heard of is dead: see acquire.lua.
local function look_at_place()
  alive_until = redis.call('ZSCORE', queue, token)
  queued = alive_until and (mode ~= 'claim' or tonumber(alive_until) + CLAIM_WITHIN_MS > now)
  if alive_until and mode == 'claim' then redis.call('ZREM', queue, token) end
end

-- `ends`: of the lease it has already, its reply was lost; else false. `number`: which of the list; 0 = there is none.
local function give(ends, number)
  -- The ms that has begun does not count. Never shorten what the holder may have been promised.
  local until_ms = math.max(now + 1 + lease, ends and math.floor(ends) or 0)
  local granted = grant(lock, index, KEYS[5], lease, now_us)
  local fence = granted[3] or granted[2]
  redis.call('ZADD', lock, number_of, names, until_ms + number / 1024, token, fence, '@' .. token)
  outlive(until_ms - now)
  return names == '' and granted or {1, now_us, fence, number}
end

if mode == 'claim' and type(kept) ~= 'table' and tonumber(kept or 0) == number_of then
  look_at_place()
  handed = queued and take_handed_over()
  if handed and names == '' then return give(false, 0) end
end
