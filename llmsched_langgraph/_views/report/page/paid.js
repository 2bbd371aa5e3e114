// Draws who paid: JCT, waits and slowdown by application, tenant and priority.

section("paid", "Who paid", (root) => {
  root.append(make("p", { class: "hint" },
    "Waits are sums over calls. A name sets the filter of the jobs below. Slowdown is JCT / critical path."));
  const names = { app: shown, tenant: tenantName, priority: String };
  const titles = { app: "Application", tenant: "Tenant", priority: "Priority" };
  for (const [by, rows] of Object.entries(figures.paid)) {
    if (by !== "app" && rows.length < 2 && (rows[0].name ?? 0) === 0) continue;
    const most = Math.max(...rows.map((row) => row.wait_s ?? 0));
    const name = (row) => (row.name === null ? tenantName(null) : make("button", {
      type: "button", class: "link", title: "show these jobs",
      onclick: () => {
        setFilter(`${by}:"${String(row.name).replaceAll('"', '""')}"`);
        document.getElementById("jobs").scrollIntoView();
      },
    }, names[by](row.name)));
    root.append(table(`By ${titles[by].toLowerCase()}`, [
      [titles[by], name],
      ["Jobs", (row) => count(row.jobs)],
      ["Work", (row) => duration(row.work_s)],
      ["Sum of waits", (row) => {
        if (row.wait_s === null) return NOT_RECORDED;
        const bar = make("div", { class: "bar", "aria-hidden": "true" });
        bar.style.width = `${most ? (100 * row.wait_s) / most : 0}%`;
        return make("div", {}, duration(row.wait_s), row.wait_s ? bar : null);
      }],
      ["Wait per job, mean", (row) => duration(row.job_wait_s?.mean)],
      ["p95", (row) => duration(row.job_wait_s?.p95)],
      ["Share of waiting", (row) => share(row.waiting_share)],
      ["JCT, mean", (row) => duration(row.jct_s?.mean)],
      ["p95", (row) => duration(row.jct_s?.p95)],
      ["Slowdown, mean", (row) => times(row.slowdown?.mean)],
      ["p95", (row) => times(row.slowdown?.p95)],
    ], rows));
  }
});
