-- Queue claimed jobs again that nobody got, or the next ones of a session that leaves.
-- ARGV: session, most jobs (0 for those that follow), and for each job its id and token. Return the number of jobs.
local session, most, again = ARGV[1], tonumber(ARGV[2]), 0
if most > 0 then
  local claims = call('HRANDFIELD', P .. 'claims:' .. session, most, 'WITHVALUES')
  for n = 1, #claims, 2 do
    requeue(claims[n], session, claims[n + 1], 0)
    again = again + 1
  end
  if call('EXISTS', P .. 'claims:' .. session) == 0 then
    if call('ZREM', P .. 'sessions', session) == 1 then
      call('HSET', P .. 'seen', session, exact(now))
    end
  end
else
  for n = 3, #ARGV, 2 do
    if call('HGET', P .. 'claims:' .. session, ARGV[n]) == ARGV[n + 1] then
      requeue(ARGV[n], session, ARGV[n + 1], 0)
      again = again + 1
    end
  end
end
publish()
return again
