// The time axis that the charts share: its range, zoom and pan by wheel, drag, pinch and keys.

const onClock = jobs.filter((job) => job.arrival !== null);
const hasTimes = jobs.some((job) => job.length > 0);
if (!onClock.length) view.aligned = true;

// Where a job begins on the axis; null if it is not on it.
function begin(job) { return view.aligned ? 0 : job.arrival; }

// The end of the axis, in seconds. It begins at 0.
function fullRange() {
  const ends = view.aligned ? jobs.map((job) => job.length) : onClock.map((job) => job.arrival + job.length);
  return ends.reduce((most, end) => Math.max(most, end), 0) || 1;
}

function setRange(from, to) {
  const full = fullRange();
  const width = Math.min(Math.max(to - from, Math.max(full * 1e-6, 1e-6)), full * 1.02);
  view.from = Math.min(Math.max(from, -full * 0.01), full * 1.01 - width);
  view.to = view.from + width;
  changed();
}

function showAll() { const full = fullRange(); setRange(-full * 0.01, full * 1.01); }

// Zoom by a factor; `at`, a time, keeps its place.
function zoom(factor, at = (view.from + view.to) / 2) {
  setRange(at - (at - view.from) / factor, at + (view.to - at) / factor);
}

function pan(parts) { const width = view.to - view.from; setRange(view.from + parts * width, view.to + parts * width); }

// The key of an event moved the axis?
function movedByKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const moves = {
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": showAll,
    ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15),
  };
  const move = moves[event.key];
  if (move) { move(); event.preventDefault(); }
  return Boolean(move);
}

// A scale from time to pixels between `left` and `right`.
function scaleOf(left, right) {
  const perSecond = (right - left) / (view.to - view.from);
  return { left, right, x: (at) => left + (at - view.from) * perSecond, at: (x) => view.from + (x - left) / perSecond };
}

function drawTimeAxis(context, colour, scale, y, height) {
  const { values } = ticks(view.from, view.to, scale.right - scale.left, 90);
  for (const at of values) {
    const x = Math.round(scale.x(at)) + 0.5;
    if (at < 0 || x < scale.left) continue;
    context.strokeStyle = colour.line;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x, y + height);
    context.stroke();
  }
}

function drawTimeLabels(context, colour, scale, y) {
  const { step, values } = ticks(view.from, view.to, scale.right - scale.left, 90);
  context.fillStyle = colour.faint;
  for (const at of values) {
    const x = scale.x(at);
    if (at < 0 || x < scale.left) continue;
    const label = timeLabel(at, step);
    const half = context.measureText(label).width / 2;
    context.textAlign = "center";
    context.fillText(label, Math.min(Math.max(x, scale.left + half), scale.right - half), y);
  }
}

// Wheel, drag and pinch on an element. `scale()` is its scale now; `hooks` are hover(x, y, event), leave(),
// click(x, y), scroll(pixels) and lines(event), each optional. x and y are pixels of the element.
function navigable(element, scale, hooks) {
  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  element.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0025)), scale().at(place(event)[0]));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan((event.deltaX || event.deltaY) * (event.deltaMode ? 20 : 1) / (scale().right - scale().left));
    }
    hooks.leave?.();
  }, { passive: false });
  const down = new Map();
  let moved = 0;
  element.addEventListener("pointerdown", (event) => {
    if (event.button || event.offsetX > element.clientWidth) return;
    if (!down.size) moved = 0;
    down.set(event.pointerId, place(event));
  });
  element.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    const before = down.get(event.pointerId);
    if (!before) { hooks.hover?.(x, y, event); return; }
    const [dx, dy] = [x - before[0], y - before[1]];
    moved += Math.abs(dx) + Math.abs(dy);
    if (moved < 4) return;
    if (!element.hasPointerCapture(event.pointerId)) element.setPointerCapture(event.pointerId);
    element.classList.add("drag");
    hooks.leave?.();
    const width = scale().right - scale().left;
    if (down.size === 2) {
      const [other] = [...down.entries()].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const factor = Math.max(Math.abs(x - other[0]), 12) / Math.max(Math.abs(before[0] - other[0]), 12);
      zoom(factor, scale().at(other[0]));
    } else {
      pan(-dx / width);
      if (event.pointerType === "mouse") hooks.scroll?.(-dy);
    }
    down.set(event.pointerId, [x, y]);
  });
  const up = (event) => {
    const was = down.delete(event.pointerId);
    element.classList.remove("drag");
    if (was && event.type === "pointerup" && moved < 4) hooks.click?.(...place(event));
  };
  element.addEventListener("pointerup", up);
  element.addEventListener("pointercancel", up);
  element.addEventListener("pointerleave", () => hooks.leave?.());
}
