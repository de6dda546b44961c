-- Shared by land and void: how those who wait for a flight hear of its end.
--
-- A stream, for one entry reaches everybody who waits, and nobody misses what was said between his asking and his
-- listening: he listens from the last entry that he was told of.
local NEWS_FOR_MS = 5000 -- far longer than that moment; who comes later looks into the cache

local function tell(news, what, kind, message)
  redis.call('XADD', news, 'MAXLEN', 8, '*', 'what', what, 'kind', kind, 'message', message)
  redis.call('PEXPIRE', news, NEWS_FOR_MS)
end

local function last_news(news)
  local last = redis.call('XREVRANGE', news, '+', '-', 'COUNT', 1)
  return #last > 0 and last[1][1] or '0-0'
end

-- While its leader puts the value into the cache, a flight carries this before the token.
local LANDING = 'landing:'
