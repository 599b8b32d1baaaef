-- Common to all scripts. Keys are named here; all of them have the prefix, and so one slot of a cluster.
local P, call = KEYS[1], redis.call
local clock = call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local news = {}

local function exact(number)
  return string.format('%.6f', number)
end

local function job_key(id)
  return P .. 'job:' .. id
end

-- What the other nodes are told: has the job ended, in how many seconds its time is over, and for which container it is
-- queued, if their claims are to look for it.
local function tell(id, ended, due, left)
  news[#news + 1] = (ended and '1 ' or '0 ') .. (left and exact(left) or '-') .. ' ' .. (due or '-') .. ' ' .. id
end

local function publish()
  if #news > 0 then
    call('PUBLISH', P .. 'news', table.concat(news, '\n'))
  end
end

local function count(group, onchain, by)
  call('HINCRBY', P .. 'pending', onchain == '1' and 'onchain' or 'offchain', by)
  if call('HINCRBY', P .. 'groups', group, by) <= 0 then
    call('HDEL', P .. 'groups', group)
  end
end

-- A lane has the jobs of one container, priority, pipeline and group. A rotation has the turns of its groups.
local function open_lane(due, lane, group, id)
  call('ZADD', P .. 'queue:' .. due .. ':' .. lane .. ':' .. group, 0, id)
  local rotation = P .. 'turns:' .. due .. ':' .. lane
  if not call('ZSCORE', rotation, group) then
    call('ZADD', rotation, call('INCR', P .. 'turn'), group)
    call('ZADD', P .. 'lanes:' .. due, 0, lane)
  end
end

-- Take a job out of its lane; return true if the group has no more there.
local function leave_lane(due, lane, group, id)
  local queue, rotation = P .. 'queue:' .. due .. ':' .. lane .. ':' .. group, P .. 'turns:' .. due .. ':' .. lane
  call('ZREM', queue, id)
  if call('EXISTS', queue) == 1 then
    return false
  end
  call('ZREM', rotation, group)
  if call('EXISTS', rotation) == 0 then
    call('ZREM', P .. 'lanes:' .. due, lane)
  end
  return true
end

-- Queue a job, due at a time; return its container, and the seconds until its time is over, or nil.
local function enqueue(id, due_at)
  local job = call('HMGET', job_key(id),
    'due', 'priority', 'pipeline', 'group', 'takeovers', 'created', 'timeout', 'queue_timeout')
  local due, expires = job[1], nil
  local lane = job[2] .. ':' .. (job[5] == '0' and '0' or '1') .. ':' .. job[3]
  local where = due_at > now and 'delayed' or 'queued'
  if where == 'delayed' then
    call('ZADD', P .. 'delayed', exact(due_at), id)
  else
    open_lane(due, lane, job[4], id)
  end
  call('ZADD', P .. 'waiting:' .. due, exact(due_at), id)
  call('SADD', P .. 'dues', due)
  if job[7] ~= '' then
    expires = tonumber(job[6]) + tonumber(job[7])
  end
  if job[8] ~= '' then
    expires = math.min(expires or math.huge, due_at + tonumber(job[8]))
  end
  if expires then
    call('ZADD', P .. 'expiring', exact(expires), id)
  end
  call('HSET', job_key(id), 'where', where, 'lane', lane, 'token', '', 'owner', '')
  return due, expires and expires - now
end

-- Take a job out of the queue, or its claim from whoever has it.
local function withdraw(id)
  local job = call('HMGET', job_key(id), 'where', 'due', 'lane', 'group', 'owner')
  local where = job[1]
  if where == 'claimed' then
    call('HDEL', P .. 'claims:' .. job[5], id)
    return
  elseif where == 'orphan' then
    call('SREM', P .. 'orphans', id)
    return
  elseif where == 'queued' then
    leave_lane(job[2], job[3], job[4], id)
  elseif where == 'delayed' then
    call('ZREM', P .. 'delayed', id)
  else
    return
  end
  call('ZREM', P .. 'waiting:' .. job[2], id)
  call('ZREM', P .. 'expiring', id)
end

-- Give a job to a session. The job is no longer in the queue.
local function grant(id, session, token)
  call('HSET', job_key(id), 'where', 'claimed', 'token', token, 'owner', session, 'since', exact(now))
  call('HSET', P .. 'claims:' .. session, id, token)
  local job = call('HMGET', job_key(id), 'state', 'client', 'names', 'takeovers', 'created')
  return {id, job[1], job[2], job[3], job[4], exact(now - tonumber(job[5]))}
end

-- Queue a job again whose claim is given up (lost = 0) or lost (lost = 1). A stream runs nowhere else: it is an orphan.
local function requeue(id, session, token, lost)
  call('HDEL', P .. 'claims:' .. session, id)
  local job = call('HMGET', job_key(id), 'token', 'stream')
  if job[1] ~= token then
    return
  end
  if job[2] == '1' then
    call('HSET', job_key(id), 'where', 'orphan', 'token', '', 'owner', '')
    call('SADD', P .. 'orphans', id)
    return
  end
  if lost == 1 then
    call('HINCRBY', job_key(id), 'takeovers', 1)
  end
  tell(id, false, enqueue(id, now))
end

-- End a job that is neither queued nor claimed any more; return its number. Numbers follow the clock, so that those
-- that a failover loses are not given again. facts: status, outcome_bytes, finished_at, has_error, container, error.
local function finish(id, facts)
  local key = job_key(id)
  local job = call('HMGET', key, 'group', 'onchain')
  local number = math.max(tonumber(call('GET', P .. 'last') or '0') + 1, math.floor(now * 1000000))
  number = string.format('%.0f', number)
  call('SET', P .. 'last', number)
  call('HSET', key, 'where', 'ended', 'token', '', 'owner', '', 'status', facts[1], 'number', number)
  if facts[4] == '1' then
    call('HSET', key, 'error_container', facts[5], 'error', facts[6])
  end
  call('HINCRBY', key, 'size', facts[2])
  call('ZREM', P .. 'unfinished', id)
  call('ZADD', P .. 'status:' .. facts[1], 0, id)
  call('ZADD', P .. 'ended', number, id)
  call('ZADD', P .. 'ended_at', facts[3], id)
  count(job[1], job[2], -1)
  tell(id, true)
  return number
end

local function delete(id)
  local job = call('HMGET', job_key(id), 'number', 'client', 'key', 'status')
  if not job[1] then
    return 0
  end
  call('UNLINK', job_key(id))
  call('ZREM', P .. 'jobs', id)
  call('ZREM', P .. 'client:' .. job[2], id)
  call('ZREM', P .. 'status:' .. job[4], id)
  call('ZREM', P .. 'ended', id)
  call('ZREM', P .. 'ended_at', id)
  if job[3] ~= '' and call('HGET', P .. 'keys', job[3]) == id then
    call('HDEL', P .. 'keys', job[3])
  end
  return 1
end
