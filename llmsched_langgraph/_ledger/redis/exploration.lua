-- Which grants explore, and which lane they go to: `exploration.py`. What the lane's belief says is pushed
-- with its key, as numbers.

local PRIME = 67108859
local JOBS = 32
local LANES = 4 * JOBS

-- Whether grant `number` explores.
function exploration.turn(number)
  local settings = state.get('settings', 'exploration')
  if not settings then
    return false
  end
  local found = (settings.seed % PRIME * 69621 + 1) % PRIME
  found = (found * found % PRIME * found + number) % PRIME
  for _ = 1, 3 do
    found = (found * found % PRIME * found + 11) % PRIME
  end
  return found < settings.epsilon * PRIME
end

local function before(one, other)
  if one.lo ~= other.lo then
    return one.lo < other.lo
  elseif one.job ~= other.job then
    return one.job < other.job
  end
  return one.arrival < other.arrival
end

-- The lane of the line whose first call has the largest gain; nil if none has a gain.
function exploration.choose(line, now)
  local jobs, count, found, last = {}, 0, {}, 0.0
  for _, lane in ipairs(lines.in_order(line, LANES)) do
    local known = state.get('lanes', lane)
    local looked_at = true
    if not jobs[known.job] then
      if count == JOBS then
        if known.order ~= last then
          break
        end
        looked_at = false -- lanes of earlier jobs with equal order may follow
      else
        jobs[known.job], count, last = true, count + 1, known.order
      end
    end
    local explore = known.explore
    if looked_at and explore then
      local work_s = explore.done_s + (explore.holding * now - explore.granted_sum_s)
      local less_s = math.min(math.max(work_s - explore.formed_s, 0.0), explore.lo)
      found[#found + 1] = {
        lo = explore.lo - less_s,
        hi = explore.hi - less_s,
        job = known.job,
        arrival = lines.arrival(known),
        lane = lane,
        explore = explore,
      }
    end
  end
  table.sort(found, before)
  local best, gain = nil, 0.0
  local reach = found[1] and found[1].hi or 0.0
  for _, own in ipairs(found) do
    if own.lo > reach then
      break
    end
    reach = math.max(reach, own.hi)
    if own.explore.left > 0 and own.explore.gain > gain then
      best, gain = own.lane, own.explore.gain
    end
  end
  return best
end
