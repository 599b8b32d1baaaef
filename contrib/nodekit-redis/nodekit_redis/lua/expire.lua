-- Delete some of the jobs that finished first. ARGV: time before which ('' for none), number to keep ('' for all),
-- limit. Return the number of deleted jobs.
local limit, found, ids = tonumber(ARGV[3]), {}, {}
local function note(id)
  if not found[id] then
    found[id] = true
    ids[#ids + 1] = {id, tonumber(call('ZSCORE', P .. 'ended', id))}
  end
end
if ARGV[1] ~= '' then
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'ended_at', '-inf', '(' .. ARGV[1], 'LIMIT', 0, limit)) do
    note(id)
  end
end
if ARGV[2] ~= '' then
  local surplus = math.min(limit, call('ZCARD', P .. 'ended') - tonumber(ARGV[2]))
  for _, id in ipairs(surplus > 0 and call('ZRANGE', P .. 'ended', 0, surplus - 1) or {}) do
    note(id)
  end
end
table.sort(ids, function(one, other) return one[2] < other[2] end)
local deleted = 0
for n = 1, math.min(limit, #ids) do
  deleted = deleted + delete(ids[n][1])
end
return deleted
