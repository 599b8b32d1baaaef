-- Keep what a node announces, and forget nodes that are gone for long. ARGV: session, incarnation, announcement, seconds.
-- Return 0 if the session is over.
local session, incarnation = ARGV[1], ARGV[2]
if not call('ZSCORE', P .. 'sessions', session) then
  return 0
end
call('HSET', P .. 'announced', incarnation, ARGV[3])
call('HSET', P .. 'session_of', incarnation, session)
local gone, seen = {}, call('HGETALL', P .. 'seen')
for n = 1, #seen, 2 do
  if tonumber(seen[n + 1]) < now - tonumber(ARGV[4]) and not call('ZSCORE', P .. 'sessions', seen[n]) then
    gone[seen[n]] = true
    call('HDEL', P .. 'seen', seen[n])
  end
end
local sessions = call('HGETALL', P .. 'session_of')
for n = 1, #sessions, 2 do
  if gone[sessions[n + 1]] then
    call('HDEL', P .. 'announced', sessions[n])
    call('HDEL', P .. 'session_of', sessions[n])
  end
end
return 1
