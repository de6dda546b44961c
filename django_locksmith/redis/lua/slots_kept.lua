-- Shared by all who may find slots under a lock's key: how many there are, and a half if they have names; nil: no slots.
local function slots_kept(lock)
  local found = redis.pcall('ZRANGE', lock, 1, 10^9, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  local names = found[1]
  if names == '' or names and string.sub(names, 1, 1) == '[' then return found[2] end
end

