-- End a job without a claim. ARGV: id, revision of the state that was read, state, and the facts of `finish`.
-- Return 1 and the finish number, 0 if the job has changed meanwhile, or -1 if it is gone.
local id, key = ARGV[1], job_key(ARGV[1])
local job = call('HMGET', key, 'revision', 'number')
if not job[1] then
  return {-1}
end
if job[1] ~= ARGV[2] or job[2] then
  return {0}
end
withdraw(id)
call('HSET', key, 'state', ARGV[3])
call('HINCRBY', key, 'revision', 1)
local number = finish(id, {unpack(ARGV, 4, 9)})
publish()
return {1, number}
