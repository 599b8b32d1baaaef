-- Renew a session, or begin it, and queue the jobs of sessions again that are silent.
-- ARGV: session, seconds of its lease, 1 to begin it, most jobs to queue again, number of claims that it knows (-1 to be
-- told all), a name for these data if they are new. Return 1 or, if the session is over, 0; the time; number of jobs
-- queued again; ids of orphans; the name of the data; and the ids and tokens of its claims, in one text, or nothing if
-- their number is right.
local session, lease, left = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
if ARGV[3] == '1' then
  call('HSETNX', P .. 'about', 'schema', SCHEMA)
  call('HSETNX', P .. 'about', 'name', ARGV[6])
elseif not call('ZSCORE', P .. 'sessions', session) then
  return {0, exact(now), 0, {}, '', false}
end
local heard = tonumber(call('HGET', P .. 'about', 'heard') or '0')
local patient_until = tonumber(call('HGET', P .. 'about', 'patient_until') or '0')
-- If the clock was set back, the leases of dead nodes would last for longer by as much: they are set back, too.
local back = heard - now
if back > 1 then
  patient_until = patient_until - back
  call('HSET', P .. 'about', 'patient_until', exact(patient_until))
  local sessions = call('ZRANGE', P .. 'sessions', 0, -1, 'WITHSCORES')
  for n = 1, #sessions, 2 do
    call('ZADD', P .. 'sessions', exact(sessions[n + 1] - back), sessions[n])
    call('HSET', P .. 'seen', sessions[n], exact((call('HGET', P .. 'seen', sessions[n]) or heard) - back))
  end
end
-- If nobody was heard for a whole lease, the server stood still, or took no writes: all get another lease.
if now - heard > lease then
  patient_until = now + lease
  call('HSET', P .. 'about', 'patient_until', exact(patient_until))
end
call('HSET', P .. 'about', 'heard', exact(now))
call('ZADD', P .. 'sessions', exact(now + lease), session)
call('HSET', P .. 'seen', session, exact(now))
local again = 0
for _, silent in ipairs(now < patient_until and {}
  or call('ZRANGEBYSCORE', P .. 'sessions', '-inf', '(' .. exact(now), 'LIMIT', 0, 10)) do
  local claims = left > 0 and call('HRANDFIELD', P .. 'claims:' .. silent, left, 'WITHVALUES') or {}
  for n = 1, #claims, 2 do
    requeue(claims[n], silent, claims[n + 1], 1)
    again, left = again + 1, left - 1
  end
  if call('EXISTS', P .. 'claims:' .. silent) == 0 then
    call('ZREM', P .. 'sessions', silent)
  end
end
publish()
local orphans = call('SRANDMEMBER', P .. 'orphans', 50)
local claims = P .. 'claims:' .. session
local told = call('HLEN', claims) ~= tonumber(ARGV[5]) and table.concat(call('HGETALL', claims), ' ')
return {1, exact(now), again, orphans, call('HGET', P .. 'about', 'name'), told}
