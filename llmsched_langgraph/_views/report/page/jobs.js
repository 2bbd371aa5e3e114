// Draws a row per job: its calls over time, waiting apart from running. Only the visible rows are drawn.

const HEAD = 26;

section("jobs", "Jobs over time", (root) => {
  const shownJobs = make("output", { id: "count", for: "filter" });
  const filter = make("input", {
    id: "filter", type: "search", autocomplete: "off", spellcheck: "false",
    placeholder: "Filter: words, or app: tenant: end: id: priority:", "aria-label": "Filter of the jobs",
    oninput: () => { view.text = filter.value; arrange(); },
  });
  const sort = make("select", { id: "sort", onchange: () => { view.sort = sort.value; arrange(); } },
    ...Object.entries(SORTS).map(([value, [title]]) => make("option", { value }, title)));
  const direction = make("button", { type: "button", id: "direction", onclick: () => { view.down = !view.down; arrange(); } });
  const align = make("select", { id: "align", onchange: () => { view.aligned = align.value === "aligned"; showAll(); } },
    ...(onClock.length ? [make("option", { value: "clock" }, "from the first arrival")] : []),
    make("option", { value: "aligned" }, "from each arrival"));
  const button = (id, text, label, act) => make("button", { type: "button", id, "aria-label": label, title: label, onclick: act }, text);
  root.append(
    make("div", { class: "tools" }, filter, make("label", {}, "Sort by", sort), direction, make("label", {}, "Time", align),
      button("closer", "+", "zoom in", () => zoom(1.5)), button("farther", "−", "zoom out", () => zoom(1 / 1.5)),
      button("earlier", "←", "move to earlier times", () => pan(-0.25)), button("later", "→", "move to later times", () => pan(0.25)),
      button("all", "Show all", "show the whole time", showAll),
      button("fit", "Fit", "zoom to the jobs that are in sight", () => fit())),
    make("p", {}, shownJobs),
    legend([
      ["running: a call holds a slot", (context, colour) => drawRun(context, colour, 0, 2, 22, 10)],
      ["waiting for a slot", (context, colour) => drawWait(context, colour, 0, 2, 22, 10)],
      ["the rest of the job", (context, colour) => drawSpan(context, colour, 0, 7, 22)],
      ["failed", (context, colour) => drawEnd(context, colour, "failed", 6, 7)],
      ["cancelled", (context, colour) => drawEnd(context, colour, "cancelled", 6, 7)],
    ]));
  const canvas = make("canvas", { "aria-hidden": "true" });
  const spacer = make("div");
  const rows = make("div", {
    id: "rows", tabindex: "0", role: "group",
    "aria-label": "Jobs over time. Up and down choose a job, Enter shows its calls, plus and minus zoom, left and right move, 0 shows all, f fits the rows in sight.",
  }, canvas, spacer);
  const spoken = make("p", { class: "hidden", role: "status", id: "spoken" });
  root.append(make("div", { class: "chart" }, rows),
    make("p", { class: "hint" }, "Ctrl + wheel, pinch, or + and − zoom. Drag, Shift + wheel, or ← and → move; 0 shows all, f fits the rows in sight. ↑ and ↓ choose a job; a click or Enter shows its calls."),
    spoken, make("div", { id: "detail", tabindex: "-1", role: "region", "aria-label": "The chosen job" }));

  const height = () => (innerWidth <= 640 ? 30 : 24);
  const labels = () => (canvas.clientWidth <= 640 ? 96 : 210);
  const scale = () => scaleOf(labels(), canvas.clientWidth - 22);
  const fit = () => {
    const first = Math.floor(rows.scrollTop / height());
    const some = view.rows.slice(first, first + Math.ceil((rows.clientHeight - HEAD) / height())).filter((job) => begin(job) !== null);
    if (!some.length) return;
    const [from, to] = [Math.min(...some.map(begin)), Math.max(...some.map((job) => begin(job) + job.length))];
    setRange(from - 0.02 * (to - from), to + 0.02 * (to - from));
  };
  const rowAt = (y) => (y < HEAD ? null : view.rows[Math.floor((y - HEAD + rows.scrollTop) / height())] ?? null);

  onView(() => {
    const high = rows.clientHeight;
    spacer.style.height = `${Math.max(HEAD + view.rows.length * height() - high, 0)}px`;
    direction.textContent = view.down ? "↓ descending" : "↑ ascending";
    direction.setAttribute("aria-label", `order: ${view.down ? "descending" : "ascending"}`);
    align.value = view.aligned ? "aligned" : "clock";
    shownJobs.textContent = view.rows.length === jobs.length ? count(jobs.length, "job") : `${count(view.rows.length)} of ${count(jobs.length, "job")}`;
    drawRows(canvas, canvas.clientWidth, high, scale(), height(), rows.scrollTop);
  });
  rows.addEventListener("scroll", () => { tip(null); changed(); });

  const hover = (x, y) => {
    const job = rowAt(y);
    if (!job) return null;
    const at = scale().at(x);
    const top = HEAD + view.rows.indexOf(job) * height() - rows.scrollTop;
    const call = x < labels() ? null : callAt(job, at, y - top, height(), 3 / ((scale().right - scale().left) / (view.to - view.from)));
    return call ? aboutCall(job, call) : aboutJob(job);
  };
  navigable(rows, scale, {
    hover: (x, y, event) => tip(hover(x, y), event.clientX, event.clientY),
    leave: () => tip(null),
    scroll: (pixels) => { rows.scrollTop += pixels; },
    click: (_, y) => { const job = rowAt(y); if (job) pick(job, true); },
  });
  const pick = (job, open) => {
    view.picked = job;
    if (open) showDetail(job);
    else spoken.textContent = aboutJob(job).join(". ");
    changed();
  };
  rows.addEventListener("keydown", (event) => {
    if (movedByKey(event)) return;
    if (event.key === "f" && !event.ctrlKey && !event.metaKey) fit();
    const at = view.rows.indexOf(view.picked);
    const page = Math.max(Math.floor((rows.clientHeight - HEAD) / height()) - 1, 1);
    const to = { ArrowDown: at + 1, ArrowUp: Math.max(at - 1, 0), PageDown: at + page, PageUp: at - page, Home: 0, End: view.rows.length - 1 }[event.key];
    if (to !== undefined && view.rows.length) {
      const next = Math.min(Math.max(to, 0), view.rows.length - 1);
      pick(view.rows[next], false);
      const top = next * height();
      const visible = rows.clientHeight - HEAD;
      rows.scrollTop = Math.min(Math.max(rows.scrollTop, top + height() - visible), top);
      event.preventDefault();
    } else if ((event.key === "Enter" || event.key === " ") && at >= 0) {
      showDetail(view.picked);
      document.getElementById("detail").focus();
      event.preventDefault();
    } else if (event.key === "Escape") {
      tip(null);
    }
  });
});

function drawSpan(context, colour, x, y, width) {
  context.fillStyle = colour.span;
  context.fillRect(x, y - 1, width, 2);
}

// The call of a job under a point: the time, the pixels below the top of its row, and the slack in seconds.
function callAt(job, at, y, height, slack) {
  const own = lanes(job);
  const lane = own[Math.min(Math.max(Math.floor(((y - 3) / (height - 6)) * own.length), 0), own.length - 1)] ?? [];
  const start = begin(job);
  if (start === null) return null;
  const far = (call) => Math.max(start + call.asked - at, at - start - call.ended, 0);
  const nearest = lane.reduce((best, call) => (best === null || far(call) < far(best) ? call : best), null);
  return nearest && far(nearest) <= slack ? nearest : null;
}

function drawRows(canvas, width, high, scale, height, scrolled) {
  const [colour, context] = [colours(), fitted(canvas, width, high)];
  const first = Math.floor(scrolled / height);
  const rows = view.rows.slice(first, first + Math.ceil((high - HEAD) / height) + 1);
  rows.forEach((job, place) => {
    const y = HEAD + (first + place) * height - scrolled;
    if (job === view.picked || (first + place) % 2) {
      context.fillStyle = job === view.picked ? colour.pick : colour.row;
      context.fillRect(0, y, width, height);
    }
  });
  if (hasTimes) drawTimeAxis(context, colour, scale, HEAD, high - HEAD);
  rows.forEach((job, place) => {
    const y = HEAD + (first + place) * height - scrolled;
    drawLabel(context, colour, job, y + height / 2, scale.left - 12, job === view.picked);
    context.save();
    context.beginPath();
    context.rect(scale.left, y, width - scale.left, height);
    context.clip();
    drawJob(context, colour, job, y, height, scale);
    context.restore();
  });
  context.fillStyle = colour.back;
  context.fillRect(0, 0, width, HEAD);
  context.fillStyle = colour.line;
  context.fillRect(0, HEAD - 1, width, 1);
  if (hasTimes) drawTimeLabels(context, colour, scale, HEAD / 2);
  context.fillStyle = colour.faint;
  context.textAlign = "left";
  context.fillText(rows.length ? cut(context, view.aligned ? "from arrival" : "application, job", scale.left - 14) : "no job passes the filter", 8, HEAD / 2);
}

// The application and the end of the id, which is what differs among jobs of one recording.
function drawLabel(context, colour, job, y, width, picked) {
  context.textAlign = "left";
  context.fillStyle = colour.text;
  const wide = width > 120;
  const letters = [...shown(job.id)];
  const id = wide ? (letters.length > 10 ? `…${letters.slice(-8).join("")}` : letters.join("")) : "";
  const room = width - 8 - (id ? Math.min(context.measureText(id).width, 90) + 8 : 0);
  context.fillText(cut(context, (picked ? "▸ " : "") + shown(job.app), room), 8, y);
  if (!id) return;
  context.fillStyle = colour.faint;
  context.textAlign = "right";
  context.fillText(cut(context, id, 90), width + 2, y);
}

function drawJob(context, colour, job, top, height, scale) {
  const start = begin(job);
  context.textAlign = "left";
  if (start === null) {
    context.fillStyle = colour.faint;
    context.fillText("no recorded arrival", scale.left + 4, top + height / 2);
    return;
  }
  if (!job.length) {
    context.fillStyle = colour.faint;
    context.fillText(`${count(job.calls.length, "call")}, work ${duration(job.work)}; no times recorded`, scale.left + 4 + (job.end === "done" ? 0 : 28), top + height / 2);
  }
  const [left, right] = [scale.x(start), scale.x(start + job.length)];
  if (right >= scale.left && left <= scale.right) drawSpan(context, colour, left, top + height - 2, Math.max(right - left, 1));
  const own = lanes(job);
  const tall = (height - 6) / Math.max(own.length, 1);
  own.forEach((lane, number) => {
    const y = top + 3 + number * tall;
    const thick = Math.max(tall - 0.8, 1);
    for (const call of lane) {
      const [asked, granted, ended] = [call.asked, Math.max(call.granted, call.asked), call.ended].map((at) => scale.x(start + at));
      if (ended < scale.left - 1 || asked > scale.right + 22) continue;
      const [from, to] = [Math.max(asked, scale.left - 8), Math.min(granted, scale.right + 30)];
      if (granted - asked >= 0.5) drawWait(context, colour, from, y, Math.max(to - from, 1), thick);
      if (granted <= scale.right + 22) {
        const left = Math.max(granted, scale.left - 8);
        const whole = Math.min(ended, scale.right + 30) - left;
        const wide = Math.max(whole - (whole > 4 ? 0.8 : 0), 1); // calls that follow each other stay apart
        drawRun(context, colour, left, y, wide, thick);
        if (wide > 60 && thick >= 13) {
          context.fillStyle = colour["run-text"];
          context.fillText(cut(context, stageName(call.stage), wide - 8), left + 4, y + thick / 2);
        }
      }
    }
  });
  if (job.end !== "done" && right >= scale.left && right <= scale.right + 10) {
    drawEnd(context, colour, job.end, right + 3, top + height / 2);
  }
}

function drawEnd(context, colour, end, x, y) {
  context.fillStyle = colour.bad;
  context.textAlign = "left";
  context.fillText(end === "failed" ? "✗" : "⊘", x, y);
}
