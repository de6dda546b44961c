-- Shared by all that change how long a lease lasts: the ms that it is to last from now on, and whether that is new.
--
-- mode  add     ms more than what is left
--       set     ms from now
--       renew   at least ms from now: a renewal never shortens a lease
local function lasting(mode, left, ms)
  if mode == 'add' then return left + ms, true end
  return ms, mode ~= 'renew' or left < ms
end

