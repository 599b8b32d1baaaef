-- Read records in order. ARGV: namespace, first and last place of the range, limit. Return keys and records.
local keys = call('ZRANGEBYLEX', P .. 'record_keys:' .. ARGV[1], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
local answer = {}
for _, key in ipairs(keys) do
  answer[#answer + 1] = key
  answer[#answer + 1] = call('HGET', P .. 'records:' .. ARGV[1], key)
end
return answer
