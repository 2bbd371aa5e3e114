// Draws on canvases: size, colours, axes, hatching. Knows nothing of jobs.

const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

// The colours of the theme in use, by the name of their CSS variable.
function colours() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${String(name)}`).trim() });
}

// Fit a canvas to a size in CSS pixels, and return its cleared context.
function fitted(canvas, width, height) {
  const scale = devicePixelRatio || 1;
  const [wide, high] = [Math.max(Math.round(width * scale), 1), Math.max(Math.round(height * scale), 1)];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = FONT;
  context.textBaseline = "middle";
  return context;
}

// A step of 1, 2 or 5 times a power of ten (or a round number of minutes, hours, days), at least `least`.
function roundStep(least) {
  for (const step of [60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400]) {
    if (least > 20 && step >= least) return step;
  }
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= least * 0.999999);
}

// The round values between two values, about one for each `gap` pixels of `pixels`.
function ticks(from, to, pixels, gap) {
  const step = roundStep(Math.max((to - from) * gap / Math.max(pixels, 1), 1e-7));
  const found = [];
  for (let at = Math.ceil(from / step - 1e-9) * step; at <= to + step * 1e-9 && found.length < 100; at += step) {
    found.push(Math.abs(at) < step / 1000 ? 0 : at);
  }
  return { step, values: found };
}

// The label of a tick of a time axis.
function timeLabel(seconds, step) {
  if (step >= 60) {
    const total = Math.round(seconds);
    const [days, hours, minutes] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60];
    return [days && `${days} d`, hours && `${hours} h`, minutes && `${minutes} min`].filter(Boolean).join(" ") || "0";
  }
  const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(step) - 1e-9)));
  return `${seconds.toFixed(digits)} s`;
}

// Cut a text to a width in pixels.
function cut(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const letters = [...text];
  let [low, high] = [0, letters.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${letters.slice(0, middle).join("")}…`).width <= width) low = middle;
    else high = middle - 1;
  }
  return `${letters.slice(0, low).join("")}…`;
}

// Waiting: a pale box with slanted lines and an edge, so that it differs from a run without its colour.
function drawWait(context, colour, x, y, width, height) {
  context.fillStyle = colour["wait-back"];
  context.fillRect(x, y, width, height);
  context.strokeStyle = colour.wait;
  context.lineWidth = 1;
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.beginPath();
  if (width >= 3) {
    for (let at = x - (x % 5) - height; at < x + width; at += 5) {
      context.moveTo(at, y + height);
      context.lineTo(at + height, y);
    }
  }
  context.rect(x + 0.5, y + 0.5, Math.max(width - 1, 0), Math.max(height - 1, 0));
  context.stroke();
  context.restore();
}

// A run: a full box.
function drawRun(context, colour, x, y, width, height) {
  context.fillStyle = colour.run;
  context.fillRect(x, y, width, height);
}

// What the marks of a chart mean. Items are [words, (context, colour) => draws into 22 x 14 pixels].
function legend(items) {
  const list = make("ul", { class: "keys" });
  const drawn = items.map(([words, draw]) => {
    const canvas = make("canvas", { "aria-hidden": "true" });
    canvas.style.width = "22px";
    list.append(make("li", {}, canvas, words));
    return [canvas, draw];
  });
  onTheme(() => drawn.forEach(([canvas, draw]) => draw(fitted(canvas, 22, 14), colours())));
  return list;
}
