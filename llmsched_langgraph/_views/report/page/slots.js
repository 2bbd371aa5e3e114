// Draws the held slots and the waiting calls of each backend over time.

const SLOTS_HEIGHT = 130;

// Moments that are closer than this are one, as in `waits.py`.
const MOMENT_S = 1e-5;

// How held and waiting change over time, from the times of the calls: [[at, held, waiting], ...].
function curve(some, backend) {
  const steps = [];
  for (const job of some) {
    if (job.arrival === null) continue;
    for (const call of job.timed) {
      if (call.backend !== backend) continue;
      const granted = Math.max(call.granted, call.asked);
      steps.push([job.arrival + call.asked, 0, 1], [job.arrival + granted, 1, -1],
        [job.arrival + Math.max(call.ended, granted), -1, 0]);
    }
  }
  steps.sort((one, two) => one[0] - two[0]);
  const found = [[-Infinity, 0, 0]];
  for (const [at, held, waiting] of steps) {
    const last = found[found.length - 1];
    if (at - last[0] <= MOMENT_S) found[found.length - 1] = [at, last[1] + held, last[2] + waiting];
    else found.push([at, last[1] + held, last[2] + waiting]);
  }
  return found;
}

// The index of the last change at or before a time.
function indexAt(points, at) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (points[middle][0] <= at) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Append the outline of one of the numbers to the path; at most two points per pixel.
function trace(context, points, which, scale, y) {
  let at = indexAt(points, view.from);
  context.moveTo(scale.left, y(points[at][which]));
  while (at < points.length) {
    const x = Math.max(Math.round(scale.x(points[at][0])), scale.left);
    if (x > scale.right) break;
    let [low, high] = [points[at][which], points[at][which]];
    const first = low;
    while (at + 1 < points.length && Math.round(scale.x(points[at + 1][0])) <= x) {
      at += 1;
      low = Math.min(low, points[at][which]);
      high = Math.max(high, points[at][which]);
    }
    const last = points[at][which];
    for (const value of [first, high, low, last]) context.lineTo(x, y(value));
    const next = at + 1 < points.length ? Math.min(Math.round(scale.x(points[at + 1][0])), scale.right) : scale.right;
    context.lineTo(next, y(last));
    at += 1;
  }
}

section("slots", "Slots over time", (root) => {
  const names = figures.backends.map((row) => row.name)
    .filter((name) => onClock.some((job) => job.timed.some((call) => call.backend === name)));
  if (!names.length) return false;
  root.append(
    make("p", { class: "hint" }, "Held slots and waiting calls, derived from the times of the recorded calls. The time axis is that of the jobs below."),
    legend([
      ["held", (context, colour) => { context.globalAlpha = 0.45; drawRun(context, colour, 0, 3, 22, 10); }],
      ["held by the jobs that the filter shows", (context, colour) => drawRun(context, colour, 0, 3, 22, 10)],
      ["waiting", (context, colour) => { context.strokeStyle = colour.wait; context.setLineDash([4, 2]); context.lineWidth = 2; context.beginPath(); context.moveTo(0, 7); context.lineTo(22, 7); context.stroke(); }],
    ]));
  onView(() => { root.hidden = view.aligned; }); // jobs that are drawn from their own arrivals share no moment
  for (const name of names) slotsChart(root, name);
  return true;
});

function slotsChart(root, name) {
  const all = curve(jobs, name);
  const most = all.reduce((found, [, held, waiting]) => Math.max(found, held, waiting), 1);
  let rows = null;
  let some = all;
  const canvas = make("canvas", { tabindex: "0", class: "plain", role: "img", "data-backend": name });
  const row = figures.backends.find((own) => own.name === name);
  canvas.setAttribute("aria-label", `Slots of ${backendName(name)} over time: peak ${count(row.peak_held)} held, `
    + `${count(row.peak_waiting)} waiting. Plus and minus zoom, left and right move.`);
  root.append(make("h3", {}, backendName(name)), make("div", { class: "chart" }, canvas));
  const scale = () => scaleOf(44, canvas.clientWidth - 10);
  const draw = () => {
    if (view.aligned) return;
    if (rows !== view.rows) { rows = view.rows; some = rows.length === jobs.length ? all : curve(rows, name); }
    const [colour, width, across] = [colours(), canvas.clientWidth, scale()];
    const context = fitted(canvas, width, SLOTS_HEIGHT);
    const [top, bottom] = [10, SLOTS_HEIGHT - 22];
    const y = (value) => bottom - (value / most) * (bottom - top);
    drawTimeAxis(context, colour, across, top, bottom - top);
    context.fillStyle = colour.faint;
    context.textAlign = "right";
    for (const value of new Set([0, Math.round(most / 2), most])) context.fillText(String(value), 38, y(value));
    context.save();
    context.beginPath();
    context.rect(across.left, 0, across.right - across.left, SLOTS_HEIGHT);
    context.clip();
    for (const [points, alpha] of some === all ? [[all, 1]] : [[all, 0.35], [some, 1]]) {
      context.globalAlpha = alpha;
      context.fillStyle = colour.run;
      context.beginPath();
      trace(context, points, 1, across, y);
      context.lineTo(across.right, y(0));
      context.lineTo(across.left, y(0));
      context.fill();
    }
    context.globalAlpha = 1;
    context.strokeStyle = colour.wait;
    context.lineWidth = 1.8;
    context.setLineDash([5, 3]);
    context.beginPath();
    trace(context, all, 2, across, y);
    context.stroke();
    context.restore();
    context.setLineDash([]);
    drawTimeLabels(context, colour, across, SLOTS_HEIGHT - 10);
  };
  onView(draw, () => [view.from, view.to, view.aligned, canvas.clientWidth]);
  navigable(canvas, scale, {
    hover: (x, _, event) => {
      const at = scale().at(x);
      const [, held, waiting] = all[indexAt(all, at)];
      const [, own] = some[indexAt(some, at)];
      tip([`${backendName(name)}, ${exact(Math.max(Number(at.toFixed(6)), 0))} after the first arrival`, `${count(held)} held, ${count(waiting)} waiting`,
        ...(some === all ? [] : [`${count(own)} held by the filtered jobs`])], event.clientX, event.clientY);
    },
    leave: () => tip(null),
  });
  canvas.addEventListener("keydown", movedByKey);
}
