-- Claim jobs: by priority, then the group whose turn is longest ago, then the oldest of it.
-- ARGV: session, token, limit, suspects, most_bytes, jobs of each group ('' for no limit), number of containers, of
-- pipelines (-1 for all), of groups; the containers, the pipelines, and for each group its name and number.
-- Return -1 without a session, 0 and the time until a delayed job is due, or 1 and the claims.
local session, token, limit, suspects = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local most_bytes, each = tonumber(ARGV[5]), tonumber(ARGV[6])
local at, pipelines, rooms = 10, nil, {}

if not call('ZSCORE', P .. 'sessions', session) then
  return {-1}
end

for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'delayed', '-inf', exact(now), 'LIMIT', 0, 100)) do
  local job = call('HMGET', job_key(id), 'due', 'lane', 'group')
  call('ZREM', P .. 'delayed', id)
  if job[1] then
    open_lane(job[1], job[2], job[3], id)
    call('HSET', job_key(id), 'where', 'queued')
  end
end

local first_pipeline = at + tonumber(ARGV[7])
local first_group = first_pipeline + math.max(0, tonumber(ARGV[8]))
if tonumber(ARGV[8]) >= 0 then
  pipelines = {}
  for n = first_pipeline, first_group - 1 do
    pipelines[ARGV[n]] = true
  end
end
for n = first_group, first_group + 2 * tonumber(ARGV[9]) - 2, 2 do
  rooms[ARGV[n]] = tonumber(ARGV[n + 1])
end

local function has_room(group)
  return not each or (rooms[group] or each) > 0
end

-- Find the group that is next in a rotation.
local function look(lane)
  local first = 0
  lane.group = nil
  while true do
    local groups = call('ZRANGE', P .. 'turns:' .. lane.due .. ':' .. lane.name, first, first + 9, 'WITHSCORES')
    for n = 1, #groups, 2 do
      if has_room(groups[n]) then
        lane.group, lane.turn = groups[n], tonumber(groups[n + 1])
        return
      end
    end
    if #groups < 20 then
      return
    end
    first = first + 10
  end
end

local levels = {}
for n = at, first_pipeline - 1 do
  for _, name in ipairs(call('ZRANGE', P .. 'lanes:' .. ARGV[n], 0, -1)) do
    local priority, suspect, pipeline = string.match(name, '^(%d+):(%d):(.*)$')
    if (suspects or suspect == '0') and (not pipelines or pipelines[pipeline]) then
      local lane = {due = ARGV[n], name = name, suspect = suspect == '1'}
      priority = tonumber(priority)
      levels[priority] = levels[priority] or {}
      table.insert(levels[priority], lane)
    end
  end
end

local function next_lane(lanes)
  local best
  for _, lane in ipairs(lanes) do
    if lane.group and (suspects or not lane.suspect) and (not best or lane.turn < best.turn) then
      best = lane
    end
  end
  return best
end

local function take(lane, id)
  local group = lane.group
  if not leave_lane(lane.due, lane.name, group, id) then
    call('ZADD', P .. 'turns:' .. lane.due .. ':' .. lane.name, call('INCR', P .. 'turn'), group)
  end
  call('ZREM', P .. 'waiting:' .. lane.due, id)
  call('ZREM', P .. 'expiring', id)
  if each then
    rooms[group] = (rooms[group] or each) - 1
  end
  if lane.suspect then
    suspects = false
  end
  return grant(id, session, token)
end

local claims, bytes = {}, 0
for priority = 0, 7 do
  local lanes = #claims < limit and levels[priority] or {}
  for _, one in ipairs(lanes) do
    look(one)
  end
  local lane = next_lane(lanes)
  while lane and #claims < limit do
    local id = call('ZRANGE', P .. 'queue:' .. lane.due .. ':' .. lane.name .. ':' .. lane.group, 0, 0)[1] or ''
    local size = call('HGET', job_key(id), 'size')
    bytes = bytes + tonumber(size or '0')
    if most_bytes and #claims > 0 and bytes > most_bytes then
      return {1, claims}
    end
    if size then
      claims[#claims + 1] = take(lane, id)
    else  -- somebody has deleted its key
      leave_lane(lane.due, lane.name, lane.group, id)
      call('ZREM', P .. 'waiting:' .. lane.due, id)
    end
    for _, one in ipairs(lanes) do
      if one == lane or (one.group and not has_room(one.group)) then
        look(one)
      end
    end
    lane = next_lane(lanes)
  end
end
if #claims > 0 then
  return {1, claims}
end
local next_due = call('ZRANGE', P .. 'delayed', 0, 0, 'WITHSCORES')
return {0, next_due[2] and exact(tonumber(next_due[2]) - now) or ''}
