// Draws the work that was predicted at each job's arrival against the work that it did.

section("predicted", "Predicted against real work", (root) => {
  if (!figures.recorded.predictions) {
    root.append(make("p", {}, "No prediction was recorded."));
    return;
  }
  const quality = figures.prediction;
  root.append(make("p", {}, quality
    ? `Of ${count(quality.jobs, "completed job")}, ${share(quality.inside)} did an amount of work inside the predicted interval, which is meant to hold ${share(quality.interval)}. `
      + `The sum of the predicted means is ${quality.ratio === null ? NOT_RECORDED : `${quality.ratio.toPrecision(3)} times`} the sum of the work; the median error is ${duration(quality.error_s.median)}.`
    : "No completed job has a prediction."));
  root.append(legend([
    ["inside the interval", (context, colour) => dot(context, colour, 11, 7, true)],
    ["outside", (context, colour) => dot(context, colour, 11, 7, false)],
    ["the line: predicted = real", (context, colour) => { context.strokeStyle = colour.faint; context.beginPath(); context.moveTo(2, 12); context.lineTo(20, 2); context.stroke(); }],
  ]));
  const canvas = make("canvas", { class: "plain", role: "img", "aria-label": "Predicted work over real work of the filtered jobs, both on logarithmic axes. The sentence above sums it up." });
  root.append(make("div", { class: "chart" }, canvas),
    make("p", { class: "hint" }, "In slot-seconds, of the jobs that the filter shows. Vertical lines are the predicted intervals."));
  let points = [];
  onView(() => { points = drawPredicted(canvas); }, () => [canvas.clientWidth]);
  canvas.addEventListener("pointermove", (event) => {
    const near = points.reduce((best, point) => {
      const far = Math.hypot(point.x - event.offsetX, point.y - event.offsetY);
      return far < (best?.far ?? 12) ? { ...point, far } : best;
    }, null);
    tip(near && aboutJob(near.job), event.clientX, event.clientY);
    canvas.style.cursor = near ? "pointer" : "";
  });
  canvas.addEventListener("pointerleave", () => tip(null));
});

const LEAST_WORK = 0.001;

function drawPredicted(canvas) {
  const [colour, width] = [colours(), canvas.clientWidth];
  const height = Math.min(Math.max(width * 0.6, 260), 460);
  const context = fitted(canvas, width, height);
  const own = view.rows.filter((job) => job.predicted && job.work !== null);
  if (!own.length) {
    context.fillStyle = colour.faint;
    context.fillText("no job of the filter has a prediction", 20, height / 2);
    return [];
  }
  const values = own.flatMap((job) => [job.work, ...job.predicted].map((value) => Math.max(value, LEAST_WORK)));
  const [low, high] = [Math.log10(values.reduce((a, b) => Math.min(a, b))) - 0.1, Math.log10(values.reduce((a, b) => Math.max(a, b))) + 0.1];
  const [left, right, top, bottom] = [66, width - 14, 12, height - 40];
  const part = (value) => (Math.log10(Math.max(value, LEAST_WORK)) - low) / (high - low);
  const [x, y] = [(value) => left + part(value) * (right - left), (value) => bottom - part(value) * (bottom - top)];
  context.fillStyle = colour.faint;
  context.strokeStyle = colour.line;
  const digits = high - low < 1.6 ? [1, 2, 5] : [1];
  for (let power = Math.floor(low); power <= high; power += 1) {
    for (const digit of digits) {
      const at = digit * 10 ** power;
      if (part(at) < 0 || part(at) > 1) continue;
      context.beginPath();
      context.moveTo(x(at), top);
      context.lineTo(x(at), bottom);
      context.moveTo(left, y(at));
      context.lineTo(right, y(at));
      context.stroke();
      context.textAlign = "center";
      context.fillText(duration(Number(at.toPrecision(1))), x(at), bottom + 12);
      context.textAlign = "right";
      context.fillText(duration(Number(at.toPrecision(1))), left - 6, y(at));
    }
  }
  context.textAlign = "right";
  context.fillText("real work", right, bottom + 30);
  context.textAlign = "left";
  context.fillText("predicted work", left + 4, top + 8);
  context.strokeStyle = colour.faint;
  context.beginPath();
  context.moveTo(left, bottom);
  context.lineTo(right, top);
  context.stroke();
  const points = own.map((job) => ({ job, x: x(job.work), y: y(job.predicted[0]) }));
  context.strokeStyle = colour.run;
  context.globalAlpha = 0.35;
  context.beginPath();
  for (const point of points) {
    context.moveTo(point.x, y(point.job.predicted[1]));
    context.lineTo(point.x, y(point.job.predicted[2]));
  }
  context.stroke();
  context.globalAlpha = 1;
  for (const { job, x: across, y: down } of points) {
    dot(context, colour, across, down, job.predicted[1] <= job.work && job.work <= job.predicted[2]);
  }
  return points;
}

// Full inside the interval; a ring in another colour outside.
function dot(context, colour, x, y, inside) {
  context.beginPath();
  context.arc(x, y, 3.5, 0, 2 * Math.PI);
  context.fillStyle = inside ? colour.run : colour.back;
  context.strokeStyle = inside ? colour.run : colour.bad;
  context.lineWidth = 1.5;
  context.fill();
  context.stroke();
  context.lineWidth = 1;
}
