-- End a holding where only the lock's own key is at hand; nobody is told.
--
-- KEYS  1 lock
-- ARGV  1 token
-- Returns  1 released; 0 the lock was not held with this token

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
