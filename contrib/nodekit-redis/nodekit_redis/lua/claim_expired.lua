-- Claim queued jobs whose time is over. ARGV: session, token, limit, most_bytes.
-- Return as `claim` does; the time is that until the time of a job is over.
local session, token, limit, most_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not call('ZSCORE', P .. 'sessions', session) then
  return {-1}
end
local claims, bytes = {}, 0
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'expiring', '-inf', exact(now), 'LIMIT', 0, limit)) do
  local size = call('HGET', job_key(id), 'size')
  bytes = bytes + tonumber(size or '0')
  if most_bytes and #claims > 0 and bytes > most_bytes then
    break
  end
  if size then
    withdraw(id)
    claims[#claims + 1] = grant(id, session, token)
  else  -- somebody has deleted its key
    call('ZREM', P .. 'expiring', id)
  end
end
if #claims > 0 then
  return {1, claims}
end
local next_end = call('ZRANGE', P .. 'expiring', 0, 0, 'WITHSCORES')
return {0, next_end[2] and exact(tonumber(next_end[2]) - now) or ''}
