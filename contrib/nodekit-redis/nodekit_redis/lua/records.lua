-- Change records of a plugin, all or none. ARGV: namespace, and for each: key, 'put' or 'delete', value, version ('' if
-- any). A value is kept with its version before it. Return 1 and versions, or 0, the number and version in conflict.
local records, keys, answer = P .. 'records:' .. ARGV[1], P .. 'record_keys:' .. ARGV[1], {1}
local function version(key)
  local record = call('HGET', records, key)
  return record and string.match(record, '^%d+') or '0'
end
for n = 2, #ARGV, 4 do
  if ARGV[n + 3] ~= '' and version(ARGV[n]) ~= ARGV[n + 3] then
    return {0, (n - 2) / 4, version(ARGV[n])}
  end
end
for n = 2, #ARGV, 4 do
  if ARGV[n + 1] == 'put' then
    local number = string.format('%.0f', call('INCR', P .. 'record_version'))
    call('HSET', records, ARGV[n], number .. ' ' .. ARGV[n + 2])
    call('ZADD', keys, 0, ARGV[n])
    answer[#answer + 1] = number
  else
    answer[#answer + 1] = tostring(call('HDEL', records, ARGV[n]))
    call('ZREM', keys, ARGV[n])
  end
end
return answer
