-- Amounts that were counted in cells of time, a part of the rates: `rates.py`. A change gives another value,
-- and leaves the one before as it is.

function cells.empty()
  return { numbers = {}, amounts = {} }
end

-- The cells from number `first` on.
function cells.since(own, first)
  if not own.numbers[1] or own.numbers[1] >= first then
    return own
  end
  local kept = cells.empty()
  for index, number in ipairs(own.numbers) do
    if number >= first then
      kept.numbers[#kept.numbers + 1] = number
      kept.amounts[#kept.amounts + 1] = own.amounts[index]
    end
  end
  return kept
end

-- These and `amount` more in a cell.
function cells.plus(own, number, amount)
  local sum = cells.empty()
  for index, known in ipairs(own.numbers) do
    sum.numbers[index], sum.amounts[index] = known, own.amounts[index]
  end
  local index = #sum.numbers
  while index > 0 and sum.numbers[index] > number do
    index = index - 1
  end
  if index > 0 and sum.numbers[index] == number then
    sum.amounts[index] = sum.amounts[index] + amount
  else
    table.insert(sum.numbers, index + 1, number)
    table.insert(sum.amounts, index + 1, amount)
  end
  return sum
end

function cells.total(own)
  local sum = 0
  for _, amount in ipairs(own.amounts) do
    sum = sum + amount
  end
  return sum
end
