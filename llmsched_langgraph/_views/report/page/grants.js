// Draws why calls got their slots, and what each backend served.

const REASONS = {
  free: "no call waited",
  order: "its key was first",
  explore: "its end was expected to reduce uncertainty most",
  deadline: "its job's deadline was close",
  overdue: "its job had waited too long",
  forced: "no slot was free and the call could not wait",
  cycle: "its wait could never have ended",
};

section("grants", "Grants and backends", (root) => {
  if (!figures.grants.length && !figures.backends.some((row) => row.peak_held !== null || row.name)) return false;
  if (figures.grants.length) {
    const all = figures.grants.reduce((sum, row) => sum + row.grants, 0);
    root.append(table("Grants by reason", [
      ["Reason", (row) => shown(row.name) + (Object.hasOwn(REASONS, row.name) ? `: ${REASONS[row.name]}` : "")],
      ["Grants", (row) => count(row.grants)],
      ["Share", (row) => share(row.grants / all)],
      ["Wait, mean", (row) => duration(row.wait_s.mean)],
      ["p95", (row) => duration(row.wait_s.p95)],
      ["max", (row) => duration(row.wait_s.max)],
    ], figures.grants));
  }
  root.append(table("Backends, the busiest first", [
    ["Backend", (row) => backendName(row.name)],
    ["Calls", (row) => count(row.calls)],
    ["Time in slots", (row) => duration(row.held_s)],
    ["Sum of waits", (row) => duration(row.wait_s)],
    ["Slots held, mean", (row) => (row.mean_held === null ? NOT_RECORDED : row.mean_held.toFixed(2))],
    ["peak", (row) => count(row.peak_held)],
    ["Calls waiting, peak", (row) => count(row.peak_waiting)],
  ], figures.backends));
  return true;
});
