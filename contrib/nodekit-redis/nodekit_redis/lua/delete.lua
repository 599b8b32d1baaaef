-- Delete finished jobs. ARGV: ids. Return their number.
local deleted = 0
for _, id in ipairs(ARGV) do
  deleted = deleted + delete(id)
end
return deleted
