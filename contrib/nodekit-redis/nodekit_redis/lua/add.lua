-- Store new jobs and queue them, or claim one: all or none. Their payloads are there under the names of this call.
-- ARGV: session and token ('' to queue), 1 if the node that queues them looks first, number of jobs; for each: id, name of
-- the call, client, key, group, onchain, priority, pipeline, stream, due, state, marks, delay, timeout, queue_timeout,
-- attempt, retried, copied steps.
-- Return for each the id under which it is stored, and '' if it was stored before; or what is wrong.
local WIDTH = 18
local FIRST = 5
local session, token, own, jobs = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])

local function names_of(name, marks)
  local names = {name}
  for n = 1, #marks do
    names[#names + 1] = name .. (string.sub(marks, n, n) == '!' and '!' or '')
  end
  return names
end

local function drop(at)
  local key, name, fields = job_key(ARGV[at]), ARGV[at + 1], {}
  fields = {'r:' .. name, 'o0:' .. name}
  for n = 1, #ARGV[at + 11] do
    fields[#fields + 1] = 's' .. n .. ':' .. name
    fields[#fields + 1] = 'o' .. n .. ':' .. name
  end
  for _, field in ipairs(fields) do
    call('HDEL', key, field)
  end
end

local function drop_all(why)
  for number = 0, jobs - 1 do
    drop(FIRST + number * WIDTH)
  end
  return {why}
end

local function stored_id(at)
  if call('HEXISTS', job_key(ARGV[at]), 'state') == 1 then
    return ARGV[at]
  end
  return ARGV[at + 3] ~= '' and call('HGET', P .. 'keys', ARGV[at + 3]) or nil
end

-- The outputs of a retry that only the old job has; nil if one is gone.
local function copies(at)
  local found, old = {}, {}
  for name in string.gmatch((call('HGET', job_key(ARGV[at + 16]), 'names') or '') .. '\n', '(.-)\n') do
    old[#old + 1] = name
  end
  for n in string.gmatch(ARGV[at + 17], '%d+') do
    local name = old[tonumber(n) + 1] or ''
    local output = string.sub(name, -1) == '!'
      and call('HGET', job_key(ARGV[at + 16]), 'o' .. n .. ':' .. string.sub(name, 1, -2))
    if not output then
      return nil
    end
    found[#found + 1] = {n, output}
  end
  return found
end

if session ~= '' and not call('ZSCORE', P .. 'sessions', session) then
  return drop_all('session')
end
local copied = {}
for number = 0, jobs - 1 do
  local at = FIRST + number * WIDTH
  if ARGV[at + 17] ~= '' and not stored_id(at) then
    copied[number] = copies(at)
    if not copied[number] then
      return drop_all('retried')
    end
  end
end

local function store(at, number)
  local id, name, marks = ARGV[at], ARGV[at + 1], ARGV[at + 11]
  local key, size = job_key(id), call('HSTRLEN', job_key(id), 'o0:' .. name)
  for _, copy in ipairs(copied[number] or {}) do
    call('HSET', key, 'o' .. copy[1] .. ':' .. name, copy[2])
  end
  for n = 1, #marks do
    size = size + call('HSTRLEN', key, 'o' .. n .. ':' .. name)
  end
  call('HSET', key, 'client', ARGV[at + 2], 'key', ARGV[at + 3], 'group', ARGV[at + 4], 'onchain', ARGV[at + 5],
    'priority', ARGV[at + 6], 'pipeline', ARGV[at + 7], 'stream', ARGV[at + 8], 'due', ARGV[at + 9],
    'state', ARGV[at + 10], 'steps', #marks, 'names', table.concat(names_of(name, marks), '\n'), 'revision', 0,
    'timeout', ARGV[at + 13], 'queue_timeout', ARGV[at + 14], 'attempt', ARGV[at + 15], 'size', size,
    'created', exact(now), 'takeovers', 0, 'status', '')
  call('ZADD', P .. 'jobs', 0, id)
  call('ZADD', P .. 'unfinished', 0, id)
  call('ZADD', P .. 'client:' .. ARGV[at + 2], 0, id)
  if ARGV[at + 3] ~= '' then
    call('HSET', P .. 'keys', ARGV[at + 3], id)
  end
  count(ARGV[at + 4], ARGV[at + 5], 1)
end

local answer = {'stored'}
for number = 0, jobs - 1 do
  local at = FIRST + number * WIDTH
  local id, names = stored_id(at), ''
  if id then
    drop(at)
  else
    id, names = ARGV[at], ARGV[at + 1]
    store(at, number)
    if session ~= '' then
      grant(id, session, token)
      tell(id, false)
    else
      local due, left = enqueue(id, now + tonumber(ARGV[at + 12]))
      tell(id, false, not own and due, left)
    end
  end
  answer[#answer + 1] = id
  answer[#answer + 1] = names
end
publish()
return answer
