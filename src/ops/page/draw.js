// Everything from the connector becomes a text node: nothing in it can become markup.
const make = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (name) node.className = name;
  return node;
};
const drawn = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};
const label = (key) => (chinese && words[key]) || key.replaceAll("_", " ");
const whole = (value) => (typeof value === "number" ? value.toLocaleString(locale, { maximumFractionDigits: 1 }) : value ?? "–");
const clock = (at) => {
  const date = new Date(at);
  return Number.isNaN(date.getTime()) ? String(at ?? "–") : date.toLocaleTimeString(locale, { hour12: false }) + (Date.now() - date > 86400000 ? " " + date.toLocaleDateString(locale) : "");
};
const span = (seconds) => {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${whole(seconds)} s`;
  const days = Math.floor(seconds / 86400);
  const parts = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60].map((part) => String(Math.floor(part)).padStart(2, "0")).join(":");
  return days > 0 ? `${days} d ${parts}` : parts;
};

// A part of the page is made anew only when what it shows has changed: the focus stays, and nothing is read out twice.
const shown = new Map();
const changed = (name, value) => {
  const text = JSON.stringify(value);
  if (shown.get(name) === text) return false;
  shown.set(name, text);
  return true;
};
const put = (node, text) => {
  if (node.textContent !== String(text)) node.textContent = text;
};

// A list of like things: columns are [title, what stands in a cell].
const table = (name, rows, columns) => {
  if (!rows?.length) return make("p", say("none"), "none");
  const wide = make("div", null, "wide");
  wide.tabIndex = 0;
  wide.setAttribute("role", "group");
  wide.setAttribute("aria-label", say(name));
  const list = make("table");
  const head = list.createTHead().insertRow();
  for (const [title] of columns) {
    const cell = make("th", label(title));
    cell.scope = "col";
    head.append(cell);
  }
  const body = list.createTBody();
  for (const item of rows) {
    const row = body.insertRow();
    for (const [, show] of columns) {
      const value = show(item);
      row.insertCell().append(value instanceof Node ? value : document.createTextNode(value ?? "–"));
    }
  }
  wide.append(list);
  return wide;
};

// Any value as nested tables, for "everything else".
const nested = (value) => {
  if (value === null || typeof value !== "object") return document.createTextNode(typeof value === "number" ? whole(value) : value === true ? say("yes") : value === false ? say("no") : String(value ?? "–"));
  const entries = Object.entries(value).slice(0, 200);
  if (entries.length === 0) return document.createTextNode(say("none"));
  if (Array.isArray(value) && value.every((item) => item === null || typeof item !== "object")) return document.createTextNode(value.slice(0, 200).join(", "));
  const list = make("table");
  for (const [key, item] of entries) {
    const row = list.insertRow();
    const head = make("th", label(key));
    head.scope = "row";
    row.append(head);
    row.insertCell().append(nested(item));
  }
  return list;
};

// Lines, or areas on top of each other. Series are { name, values }, oldest value first; null leaves a gap at zero.
const chart = (title, series, { stacked = false, limit = null, unit = "" } = {}) => {
  const figure = make("figure");
  const last = series.map(({ name, values }) => `${label(name)} ${whole(values.at(-1) ?? 0)}${unit}`);
  figure.append(make("h3", title));
  const count = Math.max(2, ...series.map(({ values }) => values.length));
  const sums = Array.from({ length: count }, (_, at) => series.reduce((sum, { values }) => sum + (values[at] ?? 0), 0));
  const most = Math.max(limit ?? 0, stacked ? Math.max(...sums) : Math.max(0, ...series.flatMap(({ values }) => values.map((value) => value ?? 0))), 1);
  const picture = drawn("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" });
  picture.setAttribute("aria-label", `${title}: ${last.join(", ")}`);
  const x = (at) => (at * 300 / (count - 1)).toFixed(1);
  const y = (value) => (98 - 94 * value / most).toFixed(1);
  const base = new Array(count).fill(0);
  series.forEach(({ values, colour }, number) => {
    const name = `k${(colour ?? number) % 5}`;
    if (stacked) {
      const below = base.map((value, at) => `${x(at)},${y(value)}`).reverse();
      values.forEach((value, at) => { base[at] += value ?? 0; });
      picture.append(drawn("polygon", { class: name, points: base.map((value, at) => `${x(at)},${y(value)}`).concat(below).join(" ") }));
    } else {
      picture.append(drawn("polyline", { class: name, points: values.map((value, at) => `${x(at)},${y(value ?? 0)}`).join(" ") }));
    }
  });
  if (limit !== null) picture.append(drawn("line", { class: "limit", x1: 0, x2: 300, y1: y(limit), y2: y(limit) }));
  figure.append(picture);
  const legend = make("ul", null, "legend");
  series.forEach(({ name, values, colour }, number) => {
    const item = make("li");
    item.append(make("i", "", `k${(colour ?? number) % 5}`), `${label(name)} ${whole(values.at(-1) ?? 0)}${unit}`);
    legend.append(item);
  });
  if (limit !== null) legend.append(make("li", `${say("limit")} ${whole(limit)}`));
  figure.append(legend);
  return figure;
};
