// Builds the sections, then draws.

(() => {
  const main = document.getElementById("page");
  main.replaceChildren();
  for (const { id, title, draw } of sections) {
    const root = make("section", { id, "aria-label": title }, make("h2", {}, title));
    main.append(root);
    if (draw(root) === false) root.remove();
  }
  const first = figures.first_arrival_s;
  // Earlier than 2000, the times are those of another clock, or of a generator.
  const when = first !== null && first > 946684800 ? `, from ${new Date(first * 1000).toLocaleString()}` : "";
  document.getElementById("what").textContent = `${shown(figures.name)}: ${count(figures.jobs, "job")}${when}`;
  document.getElementById("foot").textContent = `llmsched ${about.version}. This page loads nothing from the network.`;
  document.getElementById("theme").addEventListener("click", () => setTheme(theme + 1));
  dark.addEventListener("change", () => setTheme(theme));
  addEventListener("resize", changed);
  addEventListener("scroll", () => tip(null));
  setTheme(0);
  arrange();
  showAll();
})();
