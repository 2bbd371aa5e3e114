// Holds what the reader chose: filter, order, time range, job, theme. Draws nothing.

const view = { text: "", sort: "arrival", down: false, aligned: false, from: 0, to: 1, rows: jobs, picked: null };

const drawers = [];
const themed = [];
let due = false;
let arranged = 0; // how often the rows were arranged

// Themes: that of the system, light, dark.
const THEMES = ["system", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = 0;

// Have a function called when the view has changed, at most once per frame. `key`, if given, returns what it
// depends on beside rows and theme: the function is not called while all that stays as it is.
function onView(draw, key = null) { drawers.push({ draw, key, last: null }); }

// Have a function called now and at each change of the theme.
function onTheme(draw) { themed.push(draw); draw(); }

function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const drawer of drawers) {
      const now = drawer.key && JSON.stringify([arranged, theme, dark.matches, devicePixelRatio, ...drawer.key()]);
      if (now === null || now !== drawer.last) drawer.draw();
      drawer.last = now;
    }
  });
}

const SORTS = {
  arrival: ["arrival", (job) => job.arrival],
  jct: ["JCT", (job) => job.jct],
  wait: ["sum of waits", (job) => job.wait],
  slowdown: ["slowdown", (job) => job.slowdown],
  work: ["work", (job) => job.work],
  calls: ["number of calls", (job) => job.calls.length],
  app: ["application", (job) => job.app],
  tenant: ["tenant", (job) => job.tenant],
  priority: ["priority", (job) => job.priority],
  end: ["end", (job) => job.end],
  id: ["id", (job) => job.id],
};

const FIELDS = {
  id: (job) => job.id,
  app: (job) => job.app,
  tenant: (job) => job.tenant ?? "",
  end: (job) => job.end,
  priority: (job) => String(job.priority),
};

// The words of a filter as [field or null, text]: app:x, "two words", x. In quotes, a quote is written twice.
function wordsOf(text) {
  return [...text.matchAll(/(?:(id|app|tenant|end|priority):)?(?:"((?:[^"]|"")*)"|(\S+))/gu)]
    .map(([, field, quoted, plain]) => [field ?? null, (quoted?.replaceAll('""', '"') ?? plain).toLowerCase()]);
}

function matches(job, words) {
  return words.every(([field, text]) =>
    (field ? [FIELDS[field]] : Object.values(FIELDS)).some((read) => read(job).toLowerCase().includes(text)));
}

function compare(one, two) {
  if (one === two) return 0;
  if (one === null) return 1;
  if (two === null) return -1;
  return one < two ? -1 : 1;
}

// Filter and sort the rows anew. What was not recorded comes last in either direction.
function arrange() {
  const words = wordsOf(view.text);
  const key = SORTS[view.sort][1];
  const sign = view.down ? -1 : 1;
  arranged += 1;
  view.rows = jobs.filter((job) => matches(job, words)).sort((one, two) => {
    const [a, b] = [key(one), key(two)];
    return (a === null || b === null ? compare(a, b) : sign * compare(a, b)) || compare(one.arrival, two.arrival) || one.number - two.number;
  });
  changed();
}

function setFilter(text) {
  view.text = text;
  document.getElementById("filter").value = text;
  arrange();
}

function setTheme(next) {
  theme = next % THEMES.length;
  if (theme) document.documentElement.dataset.theme = THEMES[theme];
  else delete document.documentElement.dataset.theme;
  document.getElementById("theme").textContent = `Theme: ${THEMES[theme]}`;
  themed.forEach((draw) => draw());
  changed();
}
