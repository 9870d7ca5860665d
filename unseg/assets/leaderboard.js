// Sorting, filters and the details of one row. Without it the page is the whole table, sorted.
"use strict";
const rows = JSON.parse(document.getElementById("rows").textContent);
const byId = new Map(rows.map((row) => [row.id, row]));
const board = document.getElementById("board");
const body = board.tBodies[0];
const headings = [...board.tHead.rows[0].cells];
const filters = document.getElementById("filters");
const details = document.getElementById("details");

// Numbers sort as numbers and words as words; cells without a value come last either way.
function compare(a, b, sign) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const isNumber = a !== "" && !isNaN(a) && !isNaN(b);
  return sign * (isNumber ? a - b : a.localeCompare(b, "en"));
}

function sortBy(column) {
  const heading = headings[column];
  const isRising = heading.getAttribute("aria-sort") !== "ascending";
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", isRising ? "ascending" : "descending");
  const key = (line) => line.cells[column].dataset.key;
  [...body.rows]
    .sort((a, b) => compare(key(a), key(b), isRising ? 1 : -1))
    .forEach((line) => body.append(line));
}

function filter() {
  const value = (name) => filters.querySelector(`[name=${name}]`).value;
  const words = value("search").toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const line of body.rows) {
    const row = byId.get(line.id);
    const text = line.textContent.toLowerCase();
    const fits = { data: row.data.name, victim: row.victim.title, defence: row.defence, kind: row.kind };
    const isShown =
      words.every((word) => text.includes(word)) &&
      Object.entries(fits).every(([name, own]) => !value(name) || value(name) === own);
    line.hidden = !isShown;
    shown += isShown;
  }
  document.getElementById("count").textContent = `${shown} of ${rows.length} rows`;
}

function element(name, text, attributes = {}) {
  const isDrawing = ["svg", "path", "line", "text"].includes(name);
  const made = isDrawing
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  if (text !== null) made.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

// The clean twin of a row: the same data, victim and defence, or that victim without a defence.
function twin(row) {
  const same = (other) =>
    other.method.name === "clean" && other.data.name === row.data.name &&
    other.victim.title === row.victim.title && row.method.name !== "clean";
  const found = rows.filter(same);
  return found.find((other) => other.defence === row.defence) ||
    found.find((other) => other.defence === "none");
}

function curves(row) {
  const lines = [[row, "#1d5c54"], [twin(row), "#888"]].filter(([one]) => one && one.curve.length);
  if (!lines.length) return null;
  const [width, height, left, bottom] = [480, 210, 40, 30];
  const last = Math.max(...lines.map(([one]) => one.curve[one.curve.length - 1][0]));
  const x = (epoch) => left + (epoch / last) * (width - left - 10);
  const y = (score) => height - bottom - score * (height - bottom - 10);
  const svg = element("svg", null, {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": "clean-test score by epoch",
  });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(element("line", null, { x1: left, x2: width - 10, y1: y(share), y2: y(share), stroke: "#ddd" }));
    svg.append(element("text", `${100 * share} %`, { x: left - 6, y: y(share) + 4, "text-anchor": "end", "font-size": 11 }));
  }
  svg.append(element("text", `epoch ${last}`, { x: width - 10, y: height - 8, "text-anchor": "end", "font-size": 11 }));
  lines.forEach(([one, colour], i) => {
    const path = one.curve.map(([epoch, score]) => `${x(epoch).toFixed(1)},${y(score).toFixed(1)}`);
    svg.append(element("path", null, { d: "M" + path.join("L"), fill: "none", stroke: colour, "stroke-width": 2 }));
    svg.append(element("text", one.method.title, { x: left + 6 + 160 * i, y: height - 8, fill: colour, "font-size": 11 }));
  });
  return svg;
}

function show() {
  const id = decodeURIComponent(location.hash.slice(1));
  const row = byId.get(id);
  body.querySelectorAll(".chosen").forEach((line) => line.classList.remove("chosen"));
  details.hidden = !row;
  if (!row) return;
  document.getElementById(id).classList.add("chosen");
  const run = row.run || {};
  const facts = {
    row: id, source: row.source, evaluation: run.title, command: run.command, commit: run.commit,
    environment: run.environment && JSON.stringify(run.environment), seeds: row.seeds.join(", "),
    "by seed": (row.selected.values || []).map((v) => (100 * v).toFixed(1)).join(", "),
    pictures: [row.data.num_train, row.data.num_validation, row.data.num_test].join(" / ") + " train / validation / test",
    recipe: JSON.stringify(row.victim.recipe), settings: JSON.stringify(row.method.settings),
    authors: row.method.authors, "largest change": row.method.linf && `${row.method.linf} grey levels`,
    seconds: run.seconds,
  };
  const list = element("dl", null);
  for (const [name, value] of Object.entries(facts)) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", name), element("dd", String(value)));
  }
  if (row.method.url) {
    const place = element("dd", null);
    place.append(element("a", row.method.url, { href: row.method.url, rel: "nofollow" }));
    list.append(element("dt", "described at"), place);
  }
  details.replaceChildren(...[curves(row), list].filter(Boolean));
  details.scrollIntoView({ block: "nearest" });
}

headings.forEach((heading, column) => heading.firstChild.addEventListener("click", () => sortBy(column)));
filters.addEventListener("input", filter);
document.getElementById("reset").addEventListener("click", () => {
  filters.querySelectorAll("input, select").forEach((field) => { field.value = ""; });
  filter();
});
window.addEventListener("hashchange", show);
show();
