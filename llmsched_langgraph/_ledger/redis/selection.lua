-- The ticket that a backend grants next: `selection.py`.

-- The lane whose first ticket it is, and the reason; nil if none may have a slot.
function selection.next(now, backend)
  if overdue.turn(backend) then
    local lane = overdue.first(now, backend.id, pauses.open_s(backend.pause, now))
    if lane then
      return lane, 'overdue'
    end
  end
  local line = lines.next(backend.id)
  if not line then
    return nil
  end
  local lane = lines.urgent(line, now)
  if lane then
    return lane, 'deadline'
  end
  if exploration.turn(backend.granted + 1) then
    lane = exploration.choose(line, now)
    if lane then
      return lane, 'explore'
    end
  end
  return lines.head(line), 'order'
end
