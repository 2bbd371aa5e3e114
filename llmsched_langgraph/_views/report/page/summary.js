// Draws the figures of the whole recording.

section("summary", "Summary", (root) => {
  if (about.notes.length) {
    root.append(make("ul", { class: "notes" }, ...about.notes.map((note) => make("li", {}, shown(note)))));
  }
  const tile = (name, value, more = "") =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value, more ? make("small", {}, more) : null));
  const { jct_s: jct, slowdown, backends, tokens } = figures;
  const [busiest] = backends;
  const ends = Object.entries(figures.ends).filter(([, number]) => number).map(([end, number]) => `${count(number)} ${end}`);
  const tiles = [
    tile("Jobs", count(figures.jobs), ends.join(", ")),
    tile("Calls", count(figures.calls), figures.span_s === null ? "" : `within ${duration(figures.span_s)}`),
    jct ? tile("JCT, mean", duration(jct.mean), `median ${duration(jct.median)}`) : tile("JCT", NOT_RECORDED),
    jct && tile("JCT, p95", duration(jct.p95), `max ${duration(jct.max)}`),
    tile("Sum of waits", duration(figures.wait_s), "of all calls"),
    tile("Share of waiting", share(figures.waiting_share), "of the JCT, a call waited"),
    slowdown && tile("Slowdown, mean", times(slowdown.mean), `p95 ${times(slowdown.p95)}: JCT / critical path`),
    tile("Work", figures.work_s === null ? NOT_RECORDED : duration(figures.work_s), "in slots"),
    busiest?.name && tile("Busiest backend", backendName(busiest.name), `${duration(busiest.held_s)} in slots`),
    tokens.prompt === null && tokens.output === null ? null
      : tile("Tokens", count(tokens.output), `out; ${count(tokens.prompt)} in`),
  ];
  root.append(make("dl", { class: "tiles" }, ...tiles.filter(Boolean)));
});
