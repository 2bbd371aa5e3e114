// Builds elements and formats numbers. Knows nothing of the recording.

const NOT_RECORDED = "not recorded";

// Characters that show nothing, or that change the order of the text around them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Cs}/gu;

// A name as it is displayed: what cannot be seen is written as an escape.
function shown(text) {
  return String(text).replace(UNSEEN, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));
}

// An element. Attributes are set as such; children are elements and texts. Nothing is parsed as HTML.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A duration, rounded for reading.
function duration(seconds) {
  if (seconds === null || seconds === undefined) return NOT_RECORDED;
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${(seconds * 1e6).toPrecision(3)} µs`;
  if (size < 1) return `${(seconds * 1000).toPrecision(3)} ms`;
  if (size < 120) return `${seconds.toPrecision(3)} s`;
  if (size < 7200) return `${(seconds / 60).toPrecision(3)} min`;
  if (size < 172800) return `${(seconds / 3600).toPrecision(3)} h`;
  return `${(seconds / 86400).toLocaleString("en", { maximumFractionDigits: 1 })} d`;
}

// A duration with all recorded digits.
function exact(seconds) {
  if (seconds === null || seconds === undefined) return NOT_RECORDED;
  return `${seconds.toLocaleString("en", { maximumFractionDigits: 6 })} s`;
}

function count(number, word = "") {
  if (number === null || number === undefined) return NOT_RECORDED;
  const text = number.toLocaleString("en");
  return word ? `${text} ${word}${number === 1 ? "" : "s"}` : text;
}

function share(part) {
  return part === null || part === undefined ? NOT_RECORDED : `${(100 * part).toFixed(1)} %`;
}

function times(ratio) {
  return ratio === null || ratio === undefined ? NOT_RECORDED : `${ratio.toPrecision(3)} ×`;
}

// A table. Columns are [title, row => text, element or null]; the first cell of a row is its header. A column
// of which nothing was recorded is left out.
function table(caption, all, rows, most = 50) {
  const columns = all.filter(([, cell]) => rows.some((row) => cell(row) !== NOT_RECORDED));
  const body = make("tbody");
  const add = (some) => {
    for (const row of some) {
      body.append(make("tr", {}, ...columns.map(([, cell], at) =>
        make(at ? "td" : "th", at ? {} : { scope: "row" }, filled(cell(row))))));
    }
  };
  add(rows.slice(0, most));
  const heads = columns.map(([title]) => make("th", { scope: "col" }, title));
  const made = make("div", { class: "scroll" },
    make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...heads)), body));
  if (rows.length > most) {
    const button = make("button", { type: "button", onclick: () => { add(rows.slice(most)); button.remove(); } },
      `Show ${count(rows.length - most, "more row")}`);
    made.append(button);
  }
  return made;
}

function filled(content) {
  return content === NOT_RECORDED ? make("span", { title: NOT_RECORDED }, "–") : content ?? "";
}

// The tooltip: lines of text beside a point of the window.
function tip(lines, x, y) {
  const element = document.getElementById("tip");
  element.hidden = !lines;
  if (!lines) return;
  element.textContent = lines.join("\n");
  const { width, height } = element.getBoundingClientRect();
  element.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 6))}px`;
  element.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 12) : y + 18}px`;
}

// A section of the page: `draw(root)` fills it; it returns false to leave the section out.
const sections = [];

function section(id, title, draw) { sections.push({ id, title, draw }); }
