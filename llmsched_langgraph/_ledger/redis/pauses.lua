-- How long a backend is paused after an attempt of a call: `pauses.py`.

local REFUSALS = { [429] = true, [503] = true, [529] = true }
local FIRST_S, LONGEST_S, RAMP_S = 1.0, 32.0, 0.25
pauses.LIMIT_S = 120.0
pauses.REFUSALS = REFUSALS

function pauses.never()
  return { opens_s = 0.0, backoff_s = 0.0, closed_s = 0.0 }
end

function pauses.until_(pause, now, opens_s, grants)
  local longer_s = opens_s - math.max(pause.opens_s, now)
  if longer_s <= 0.0 then
    return pause
  end
  return numbers.replace(pause, { opens_s = opens_s, closed_s = pause.closed_s + longer_s, grants = grants })
end

function pauses.open_s(pause, now)
  return math.max(pause.opens_s, now) - pause.closed_s
end

function pauses.ready_s(pause, grants, slots)
  if not pause.grants or grants - pause.grants >= slots then
    return pause.opens_s
  end
  return pause.opens_s + RAMP_S * (numbers.bit_length(grants - pause.grants + 1) - 1)
end

-- `failure` is nil for an attempt that did not fail.
function pauses.paused(pause, grants, granted_s, now, failure)
  if not failure then
    if granted_s >= pause.opens_s then
      return numbers.replace(pause, { backoff_s = 0.0 })
    end
    return pause
  end
  local after_s = failure.retry_after_s
  if after_s then
    if after_s <= pauses.LIMIT_S then
      return pauses.until_(pause, now, now + after_s, grants)
    end
    return pause
  end
  if not REFUSALS[failure.status] or granted_s < pause.opens_s then
    return pause
  end
  local backoff_s = FIRST_S
  if pause.backoff_s ~= 0 then
    backoff_s = math.min(2 * pause.backoff_s, LONGEST_S)
  end
  return numbers.replace(pauses.until_(pause, now, now + backoff_s, grants), { backoff_s = backoff_s })
end
