// Draws the charts as SVG, as wide as there is room, in the page's own colours (CSS), and again on a resize.
const SVG = "http://www.w3.org/2000/svg";
const DIGIT_PX = 7.2, TOP = 22, BOTTOM = 42, RIGHT = 14;

function add(parent, name, attributes = {}, text = "") {
  const element = parent.appendChild(document.createElementNS(SVG, name));
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

// Round numbers from low to high, at most `count` of them.
function numberTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step + 0);  // + 0: not -0
  const quarter = Math.abs(step / 10 ** Math.floor(Math.log10(step) + 1e-9) - 2.5) < 1e-6;  // 2.5 needs a digit more
  const digits = Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9) + (quarter ? 1 : 0)));
  return found.map((at) => [at, (Math.abs(at) < step / 2 ? 0 : at).toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })]);
}

function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    if (power >= low - 1e-9 && power <= high + 1e-9) found.push([power, Number((10 ** power).toPrecision(1)).toLocaleString("en", { maximumFractionDigits: 8 })]);
  }
  return found.length > 1 ? found : numberTicks(low, high, 4).map(([at]) => [at, (10 ** at).toPrecision(3)]);
}

// Moments (Unix ms, UTC) a round time apart.
function timeTicks(low, high, count) {
  const S = 1e3, M = 60 * S, H = 60 * M, D = 24 * H;
  const steps = [S, 5 * S, 15 * S, M, 5 * M, 15 * M, H, 3 * H, 6 * H, 12 * H, D, 2 * D, 7 * D, 14 * D, 30 * D, 60 * D, 91 * D, 182 * D, 365 * D, 730 * D, 1825 * D];
  const step = steps.find((s) => (high - low) / s <= count) || 3650 * D;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) {
    const said = new Date(at).toISOString();
    found.push([at, step >= D ? said.slice(0, 10) : step >= M ? said.slice(5, 16).replace("T", " ") : said.slice(11, 19)]);
  }
  return found;
}

function scale(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
  return low > high ? [0, 1] : [low, high];
}

// The parts of a line between gaps, as an SVG path.
function path(xs, ys) {
  let said = "", open = false;
  xs.forEach((x, i) => {
    if (ys[i] === null) { open = false; return; }
    said += `${open ? "L" : "M"}${x.toFixed(1)} ${ys[i].toFixed(1)}`;
    open = true;
  });
  return said;
}

function drawLines(box, figure) {
  const width = box.clientWidth, height = box.clientHeight;
  const svg = add(box, "svg", { width, height, "aria-hidden": "true" });
  const value = (y) => (y === null || !figure.log ? y : y > 0 ? Math.log10(y) : null);
  const lines = figure.lines.map((line) => ({ ...line, y: line.y.map(value), band: line.band && line.band.map((edge) => edge.map(value)) }));
  let [low, high] = extent(lines.flatMap((line) => [...line.y, ...(line.band ? line.band.flat() : [])]));
  if (figure.from_zero && !figure.log) low = Math.min(low, 0);
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  if (!(figure.from_zero && low === 0)) low -= pad;
  high += pad;
  const yTicks = figure.log ? logTicks(low, high) : numberTicks(low, high, 5);
  const left = Math.max(...yTicks.map(([, said]) => said.length), 2) * DIGIT_PX + 12;
  const [first, last] = extent(lines.flatMap((line) => line.x));
  const X = scale(first, last, left + 6, width - RIGHT - 6), Y = scale(low, high, height - BOTTOM, TOP);
  const room = Math.max(2, Math.floor((width - left) / (figure.time ? 92 : 80)));
  const xTicks = (figure.time ? timeTicks : numberTicks)(first, last === first ? first + 1 : last, room);
  for (const [at, said] of yTicks) {
    add(svg, "line", { class: "grid", x1: left, x2: width - RIGHT, y1: Y(at), y2: Y(at) });
    add(svg, "text", { x: left - 6, y: Y(at) + 4, "text-anchor": "end" }, said);
  }
  for (const [at, said] of xTicks) {
    const half = (said.length * DIGIT_PX) / 2, x = Math.min(Math.max(X(at), left + half - 12), width - half - 2);
    add(svg, "line", { class: "grid", x1: X(at), x2: X(at), y1: height - BOTTOM, y2: height - BOTTOM + 4 });
    add(svg, "text", { x, y: height - BOTTOM + 17, "text-anchor": "middle" }, said);
  }
  add(svg, "text", { x: 0, y: 12 }, figure.y_title);
  add(svg, "text", { x: width - RIGHT, y: height - 6, "text-anchor": "end" }, figure.x_title);
  const ends = [-Infinity, -Infinity];  // where the last mark's name in each of two rows ends
  for (const [at, said] of figure.marks) {
    const x = X(at), long = said.length * 6.6, before = x + long > width - RIGHT;
    const begin = before ? x - long : x, row = begin > ends[0] + 6 ? 0 : 1;
    add(svg, "line", { class: "mark", x1: x, x2: x, y1: TOP, y2: height - BOTTOM });
    if (begin > ends[row] + 6) {
      add(svg, "text", { x: before ? x - 4 : x + 4, y: TOP + 12 + 14 * row, "text-anchor": before ? "end" : "start" }, said);
      ends[row] = begin + long;
    }
  }
  for (const line of lines) {
    const xs = line.x.map(X);
    if (line.band) {
      const [lower, upper] = line.band.map((edge) => edge.map((y) => (y === null ? null : Y(y))));
      const shown = xs.map((_, i) => i).filter((i) => lower[i] !== null && upper[i] !== null);
      const there = shown.map((i) => `${xs[i].toFixed(1)} ${upper[i].toFixed(1)}`), back = shown.reverse().map((i) => `${xs[i].toFixed(1)} ${lower[i].toFixed(1)}`);
      if (there.length) add(svg, "path", { d: `M${[...there, ...back].join("L")}Z`, fill: line.color, "fill-opacity": 0.2 });
    }
  }
  for (const line of lines) {
    const xs = line.x.map(X), ys = line.y.map((y) => (y === null ? null : Y(y)));
    if (xs.length === 1 && ys[0] !== null) add(svg, "circle", { cx: xs[0], cy: ys[0], r: 4, fill: line.color });
    add(svg, "path", { d: path(xs, ys), fill: "none", stroke: line.color, "stroke-width": line.width, "stroke-dasharray": line.dash, "stroke-linejoin": "round" });
  }
  const cross = add(svg, "line", { class: "mark", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
  const tip = box.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.hidden = true;
  const xs = lines[0] ? lines[0].x : [];
  box.onpointermove = (event) => {
    if (!xs.length) return;
    const at = event.clientX - box.getBoundingClientRect().left;
    const near = xs.reduce((best, x, i) => (Math.abs(X(x) - at) < Math.abs(X(xs[best]) - at) ? i : best), 0);
    const x = X(xs[near]);
    cross.setAttribute("x1", x);
    cross.setAttribute("x2", x);
    cross.setAttribute("visibility", "visible");
    const when = figure.time ? new Date(xs[near]).toISOString().slice(0, 16).replace("T", " ") : xs[near].toLocaleString("en");
    tip.textContent = [when, ...figure.lines.map((line) => {
      const i = line.x.indexOf(xs[near]), y = i < 0 ? null : line.y[i];
      return `${line.name}: ${y === null ? "–" : Number(y.toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 })}`;
    })].join("\n");
    tip.hidden = false;
    tip.style.left = `${Math.min(Math.max(x + 10, 0), Math.max(width - tip.offsetWidth, 0))}px`;
    if (x + 10 + tip.offsetWidth > width) tip.style.left = `${Math.max(x - 10 - tip.offsetWidth, 0)}px`;
  };
  box.onpointerleave = () => { tip.hidden = true; cross.setAttribute("visibility", "hidden"); };
}

// Estimates with intervals under each other; where there is little room a row's name stands above it.
function drawForest(box, figure) {
  const width = box.clientWidth, above = width < 560, row = above ? 36 : 24;
  const longest = Math.max(...figure.rows.map(([name]) => name.length), 0) * 6.9 + 12;
  const left = above ? 4 : Math.min(longest, width * 0.45), height = figure.rows.length * row + 52;
  box.style.height = `${height}px`;
  const svg = add(box, "svg", { width, height, "aria-hidden": "true" });
  let [low, high] = extent([0, ...figure.rows.flatMap((r) => r.slice(1))]);
  const pad = (high - low || 1) * 0.05;
  const X = scale((low -= pad), (high += pad), left + 4, width - RIGHT);
  const end = figure.rows.length * row + 8;
  for (const [at, said] of numberTicks(low, high, Math.max(2, Math.floor((width - left) / 90)))) {
    add(svg, "line", { class: "grid", x1: X(at), x2: X(at), y1: 4, y2: end });
    add(svg, "text", { x: X(at), y: end + 16, "text-anchor": "middle" }, said);
  }
  add(svg, "line", { class: "zero", x1: X(0), x2: X(0), y1: 4, y2: end });
  add(svg, "text", { x: width - RIGHT, y: end + 34, "text-anchor": "end" }, figure.x_title);
  figure.rows.forEach(([name, value, from, to], i) => {
    const y = 4 + i * row + (above ? 26 : row / 2), most = Math.floor((above ? width : left - 8) / 6.9);
    const shown = name.length > most ? `${name.slice(0, Math.max(most - 1, 1))}…` : name;
    const told = above ? add(svg, "text", { x: 4, y: y - 10 }, shown) : add(svg, "text", { x: left - 8, y: y + 4, "text-anchor": "end" }, shown);
    add(told, "title", {}, name);
    if (from !== null && to !== null) add(svg, "line", { x1: X(from), x2: X(to), y1: y, y2: y, stroke: figure.color, "stroke-width": 2 });
    if (value !== null) add(svg, "circle", { cx: X(value), cy: y, r: 4, fill: figure.color });
  });
}

function draw() {
  figures.forEach((figure, i) => {
    const box = document.getElementById(`chart${i}`);
    box.replaceChildren();
    (figure.rows ? drawForest : drawLines)(box, figure);
  });
}
draw();
let width = window.innerWidth;
window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; draw(); } });
