-- Store the newer state of a claimed job, if the claim is valid. The outlines and outputs of new steps are there under
-- the name of this call. ARGV: id, token, name of the call, mode (save, finish, release, or own: a release for which the
-- node of the writer looks first), state, number of steps that the writer knew, marks of those behind, due,
-- queue_timeout, attempt, delay, and the facts of `finish`.
-- Return 1 and the finish number, or 0 if the claim is not valid.
local id, token, name, mode, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local known, marks, key = tonumber(ARGV[6]), ARGV[7], job_key(ARGV[1])

local function drop(first, last)
  for n = first, last do
    call('HDEL', key, 's' .. n .. ':' .. name, 'o' .. n .. ':' .. name)
  end
end

local job = call('HMGET', key, 'token', 'steps', 'state', 'ended_by', 'number', 'owner')
local total = known + #marks
if job[1] ~= token then
  drop(known + 1, total)
  if mode == 'finish' and job[4] == token and job[3] == state then
    return {1, job[5]}  -- the answer of an earlier call was lost
  end
  return {0}
end
local stored = tonumber(job[2])
if stored < known then
  drop(known + 1, total)
  requeue(id, job[6], token, 0)  -- the server has lost a step, as a failover may
  publish()
  return {0}
end
drop(known + 1, math.min(stored, total))
if total > stored then
  local names, size = {call('HGET', key, 'names')}, 0
  for n = stored + 1, total do
    local mark = string.sub(marks, n - known, n - known)
    names[#names + 1] = name .. (mark == '!' and '!' or '')
    size = size + call('HSTRLEN', key, 'o' .. n .. ':' .. name)
  end
  call('HSET', key, 'steps', total, 'names', table.concat(names, '\n'), 'takeovers', 0)
  call('HINCRBY', key, 'size', size)
end
call('HSET', key, 'state', state, 'due', ARGV[8], 'queue_timeout', ARGV[9], 'attempt', ARGV[10], 'since', exact(now))
call('HINCRBY', key, 'revision', 1)
local number = ''
if mode == 'save' then
  tell(id, false)
else
  call('HDEL', P .. 'claims:' .. job[6], id)
  if mode == 'finish' then
    number = finish(id, {unpack(ARGV, 12, 17)})
    call('HSET', key, 'ended_by', token)
  else
    local due, left = enqueue(id, now + tonumber(ARGV[11]))
    tell(id, false, mode == 'release' and due, left)
  end
end
publish()
return {1, number}
