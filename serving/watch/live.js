// The live page. Asks the server for the newest numbers once a second while it is looked at, and draws them.
"use strict";

const EVERY_MS = 1000;
const AGAIN_MS_MAX = 10000;
const FINE_POINTS = 600;
const TABLE_ROWS = 10;

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// --- numbers for people: [number, unit], null where it is not known ---------------------------------

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function count(x) {
  const size = Math.abs(x);
  if (size >= 1e9) return [(x / 1e9).toFixed(2), "G"];
  if (size >= 1e6) return [(x / 1e6).toFixed(2), "M"];
  if (size >= 1e5) return [(x / 1e3).toFixed(0), "k"];
  if (size >= 1e4) return [(x / 1e3).toFixed(1), "k"];
  return [grouped.format(x), ""];
}

function rate(x) {
  return x !== 0 && Math.abs(x) < 10 ? [x.toFixed(Math.abs(x) < 0.1 ? 2 : 1), ""] : count(x);
}

function seconds(s) {
  if (s < 0.0005) return ["0", "ms"];
  if (s < 0.01) return [(s * 1e3).toFixed(1), "ms"];
  if (s < 0.9995) return [(s * 1e3).toFixed(0), "ms"];
  if (s < 10) return [s.toFixed(1), "s"];
  if (s < 120) return [s.toFixed(0), "s"];
  if (s < 7200) return [(s / 60).toFixed(0), "min"];
  if (s < 172800) return [(s / 3600).toFixed(1), "h"];
  return [(s / 86400).toFixed(1), "d"];
}

const amount = (x) => (Math.abs(x) >= 1000 ? count(x) : [x.toPrecision(3), ""]);
const ratio = (x) => [x.toFixed(3), ""];
const share = (x) => [(x * 100).toFixed(x < 0.1 ? 2 : 1), "%"];
const percent = (x) => [(x * 100).toFixed(x < 0.1 ? 1 : 0), "%"];
const text = (format, x) => (x === null || x === undefined ? "–" : format(x).filter(Boolean).join("\u00a0"));
const clock = (unix, exact) =>
  new Date(unix * 1000).toLocaleTimeString("en-GB", exact ? {} : { hour: "2-digit", minute: "2-digit" });

// --- what there is to see --------------------------------------------------------------------------

// where: the text that says what it means; value and note are made from the numbers of now
const TILES = [
  { name: "Click rate", where: "click-rate", format: share, value: (n) => n.click_rate, ofValue: { name: "Mean label", format: amount },
    note: (n) => (n.click_rate === null ? waiting(n) : `of ${text(count, n.scored_examples)} examples`) },
  { name: "Mean prediction", where: "click-rate", format: share, value: (n) => n.mean_prediction, ofValue: { format: amount },
    note: (n) => (n.mean_prediction === null ? waiting(n) : "corrected, of the same examples") },
  { name: "Impressions", where: "impressions", format: count, value: (n) => n.impressions,
    note: (n) => (n.impressions ? `${text(rate, n.impressions_per_s)} a second` : empty(n) ? FIRST : n.impressions === null ? "no joiner tells of itself" : "none yet") },
  { name: "Joined share", where: "joined-share", format: percent, value: (n) => n.joined_share,
    note: (n) => (n.joined_share === null ? (empty(n) ? FIRST : "no actions yet") : "of the actions met their impression") },
  { name: "Events per second", where: "events", format: rate, value: (n) => n.events_per_s,
    note: (n, live) => (empty(n) ? FIRST : n.examples_per_s === null ? (live.roles.some((r) => r.role === "joiner") ? "no examples yet" : "no joiner tells of itself") : `${text(rate, n.examples_per_s)} examples`) },
  { name: "Requests per second", where: "requests", format: rate, value: (n) => n.requests_per_s,
    note: (n) => (n.score_p99_s === null ? (empty(n) ? "waiting for the first requests" : "no scores asked for lately") : `p99 ${text(seconds, n.score_p99_s)}`) },
  { name: "Freshness", where: "freshness", format: seconds, value: (n) => n.freshness_s,
    note: (n) => (n.freshness_s === null ? (empty(n) ? FIRST : "nothing learnt yet") : `weights ${text(seconds, n.base_freshness_s)}`) },
  { name: "Lag", where: "lag", format: count, unit: "records", value: (n) => known(n.joiner_lag_records, n.learner_lag_records),
    note: (n) => (empty(n) && !known(n.joiner_lag_records, n.learner_lag_records) ? FIRST : n.joiner_lag_s === null && n.learner_lag_s === null ? "no role has told where it is" : `joiner ${text(seconds, n.joiner_lag_s)}, learner ${text(seconds, n.learner_lag_s)}`) },
  { name: "AUC", where: "auc", format: ratio, unit: "corrected", value: (n) => n.auc_corrected,
    ofValue: { name: "Absolute error", format: amount, value: (n) => n.mae_corrected, note: (n) => `base ${text(amount, n.mae_base)}` },
    note: (n) => (n.auc_corrected === null ? waiting(n) : `base ${text(ratio, n.auc_base)}${also("frozen", n.auc_frozen)}`) },
  { name: "Log loss", where: "log-loss", format: ratio, unit: "corrected", value: (n) => n.logloss_corrected,
    ofValue: { note: () => "none: the target is a value" },
    note: (n) => (n.logloss_corrected === null ? waiting(n) : `base ${text(ratio, n.logloss_base)}${also("frozen", n.logloss_frozen)}`) },
  { name: "Calibration", where: "calibration", format: ratio, unit: "corrected", value: (n) => n.calibration_corrected,
    note: (n) => (n.calibration_corrected === null ? waiting(n) : `base ${text(ratio, n.calibration_base)}; 1 is right`) },
  { name: "Gate", where: "gate", format: percent, value: (n) => n.gate,
    note: (n) => (n.gate === null ? "the model is loading" : !n.evidence && empty(n) ? FIRST : `evidence ${text(count, n.evidence)}`) },
  { name: "Table rows", where: "table-rows", format: count, value: (n) => n.table_rows,
    note: (n, live) => (!n.table_rows ? (empty(n) ? FIRST : "none yet") : live.tables.length ? `of ${live.tables.length} feature${live.tables.length > 1 ? "s" : ""}` : "none yet") },
  { name: "Dead letters", where: "dead-letters", format: count, value: (n) => n.dead_letters,
    note: (n) => (!n.dead_letters ? (n.dead_letters === null ? "not known yet" : empty(n) ? "none" : "all could be used") : n.dead_letters_per_s ? `${text(rate, n.dead_letters_per_s)} a second now` : "none of them just now") },
];

// lines: name, number, colour, and "wide" for one on which another often lies; span: what the y axis covers at least; mark: a line to compare with
const CHARTS = [
  { title: "AUC", where: "auc", format: ratio, span: 0.02, ofValue: false, empty: "waiting for the first labels …",
    lines: [["frozen", "auc_frozen", "frozen"], ["base", "auc_base", "base", "wide"], ["corrected", "auc_corrected", "corrected"]] },
  { title: "Log loss", where: "log-loss", format: ratio, span: 0.02, ofValue: false, empty: "waiting for the first labels …",
    lines: [["frozen", "logloss_frozen", "frozen"], ["base", "logloss_base", "base", "wide"], ["corrected", "logloss_corrected", "corrected"]] },
  { title: "Absolute error", where: "auc", format: amount, zero: true, span: 0.1, empty: "waiting for the first labels …", ofValue: true,
    lines: [["base", "mae_base", "base", "wide"], ["corrected", "mae_corrected", "corrected"]] },
  { title: "Events per second", where: "events", format: rate, zero: true, span: 1, empty: "waiting for the first events …",
    lines: [["events", "events_per_s", "base"], ["examples", "examples_per_s", "corrected"], ["requests", "requests_per_s", "third"]] },
  { title: "Lag", where: "lag", format: seconds, zero: true, span: 0.1, empty: "no role has told the log where it is yet",
    lines: [["joiner", "joiner_lag_s", "base"], ["learner", "learner_lag_s", "corrected"], ["server", "server_lag_s", "third"]] },
  { title: "Freshness", where: "freshness", format: seconds, zero: true, span: 0.5, empty: "nothing learnt yet",
    lines: [["weights alone", "base_freshness_s", "base", "wide"], ["answers", "freshness_s", "corrected"]] },
  { title: "Calibration", where: "calibration", format: ratio, span: 0.1, mark: 1, empty: "waiting for the first labels …",
    lines: [["base", "calibration_base", "base", "wide"], ["corrected", "calibration_corrected", "corrected"]] },
  { title: "Gate", where: "gate", format: percent, zero: true, span: 1, top: 1, empty: "the model is loading",
    lines: [["share of the correction applied", "gate", "corrected"]] },
  { title: "Exposure", where: "exposure", format: ratio, zero: true, span: 1, top: 1, empty: "no slates of several items yet",
    lines: [["coverage", "shown_coverage", "base"], ["Gini", "shown_gini", "corrected"], ["young", "shown_young", "third"]] },
  { title: "Table rows", where: "table-rows", format: count, zero: true, span: 10, empty: "waiting for the first rows …",
    lines: [["rows", "table_rows", "base"]] },
];

const known = (...values) => {
  const there = values.filter((v) => v !== null);
  return there.length ? there.reduce((a, b) => a + b, 0) : null;
};
// the first target is a value: it has an error in place of an AUC and a log loss
const isValue = (n) => n.mae_corrected !== null;
const also = (name, value) => (value === null ? "" : `, ${name} ${text(ratio, value)}`);
// nothing has come yet, which is how each Freshet begins and no fault
const FIRST = "waiting for the first events";
const empty = (n) => !n.impressions && !n.scored_examples && !n.events_per_s;
const waiting = (n) => (n.scored_examples ? "waiting for a click" : empty(n) ? FIRST : "waiting for the first labels");

// --- tiles, tables, alerts -------------------------------------------------------------------------

function buildTiles() {
  for (const tile of TILES) {
    tile.number = make("strong");
    tile.noteAt = make("span", { class: "note" });
    $("tiles").append(make("a", { class: "tile", href: `#${tile.where}` },
      tile.nameAt = make("span", { class: "name", text: tile.name }), tile.number, tile.noteAt));
  }
}

function showTiles(live) {
  const ofValue = isValue(live.now);
  for (const plain of TILES) {
    const tile = ofValue && plain.ofValue ? { ...plain, ...plain.ofValue } : plain;
    const value = tile.value(live.now);
    setText(tile.nameAt, tile.name);
    tile.number.replaceChildren();
    tile.number.className = value === null ? "none" : "";
    if (value === null) tile.number.textContent = "–";
    else {
      const [number, unit] = tile.format(value);
      const said = [unit, tile.unit].filter(Boolean).join(" ");
      tile.number.append(number, ...(said ? [make("span", { class: "unit", text: ` ${said}` })] : []));
    }
    setText(tile.noteAt, tile.note(live.now, live));
  }
  for (const chart of CHARTS) if (chart.ofValue !== undefined) chart.card.hidden = chart.ofValue !== ofValue;
}

function setText(element, said) {
  if (element.textContent !== said) element.textContent = said;
}

const COLUMNS = [["rows", "rows", count], ["admitted/s", "admitted_per_s", rate], ["refused/s", "refused_per_s", rate],
  ["expired/s", "expired_per_s", rate], ["evicted/s", "evicted_per_s", rate], ["unknown", "unknown_share", percent], ["missing", "missing_share", percent]];

function showTables(live) {
  // on a phone each row is a small table, so each cell carries its column's name; the roles say that it is one still
  $("tables").replaceChildren(...live.tables.map((row) => make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader", text: row.feature }),
    ...COLUMNS.map(([called, name, format]) => make("td", { role: "cell", "data-column": called, text: text(format, row[name]) })))));
  const unheard = live.tables.length && live.tables.every((row) => row.admitted_per_s === null);
  setText($("tables-none"), !live.tables.length ? "No table yet: the model is loading, or has learnt nothing."
    : unheard ? "No learner tells of itself in the log, so admissions and expiries are not known here." : "");
}

const TARGET_COLUMNS = [["examples", "examples", () => count], ["mean label", "mean", (row) => (row.value ? amount : share)], ["AUC", "auc", () => ratio],
  ["log loss", "logloss", () => ratio], ["error", "mae", () => amount], ["calibration", "calibration", () => ratio]];

function showTargets(live) {
  const rows = live.targets || [];
  $("targets-card").hidden = !rows.length;
  $("targets").replaceChildren(...rows.map((row) => make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader", text: row.target }),
    ...TARGET_COLUMNS.map(([called, name, format]) => make("td", { role: "cell", "data-column": called, text: text(format(row), row[name]) })))));
}

const signed = (x) => (x > 0 ? "+" : x < 0 ? "−" : "") + Math.abs(x).toFixed(4);

// [low, high] of a confidence sequence; it may be looked at any time
function difference(row, name) {
  if (row[name] === null || row[name] === undefined) return "–";
  return `${signed(row[name])} (${signed(row[`${name}_low`])} to ${signed(row[`${name}_high`])})`;
}

const MODEL_COLUMNS = [["share", "share", percent], ["answers", "answered_per_s", rate], ["AUC", "auc", ratio],
  ["log loss", "logloss", ratio], ["calibration", "calibration", ratio], ["freshness", "freshness_s", seconds]];

function showModels(live) {
  const rows = live.models || [];
  $("models-card").hidden = !rows.length;
  $("models-list").replaceChildren(...rows.map((row) => make("tr", { role: "row" },
    make("th", { scope: "row", role: "rowheader", text: row.model + (row.ready === 0 ? " (not ready)" : "") }),
    ...MODEL_COLUMNS.map(([called, name, format]) => make("td", { role: "cell", "data-column": called, text: text(format, row[name]) })),
    ...[["log loss compared", "difference"], ["clicks compared", "clicks"]].map(([called, name]) => make("td", { role: "cell", "data-column": called, text: difference(row, name) })))));
}

function showRoles(live) {
  $("roles-list").replaceChildren(...live.roles.map((role) => make("li", {},
    make("i", { "data-state": role.state, "aria-hidden": "true" }),
    make("span", { class: "who", text: role.role }), make("span", { class: "name", text: role.name }),
    make("span", { class: "how", text: role.state === "silent" ? `silent for ${text(seconds, role.heard_s)}` : role.state }))));
  const missing = ["joiner", "learner"].filter((name) => !live.roles.some((role) => role.role === name));
  setText($("roles-none"), missing.length
    ? `No ${missing.join(" and no ")} tells of itself in this log; what only they know is shown as –.` : "");
}

let alertsSaid = "";

function showAlerts(live) {
  const firing = live.alerts.filter((alert) => alert.until === null);
  const shown = [...firing, ...live.alerts.filter((alert) => alert.until !== null).slice(0, 3)];
  const key = JSON.stringify(shown);
  if (key === alertsSaid) return;
  alertsSaid = key;
  const list = shown.map((alert) => make("div",
    { class: alert.until === null ? "alert" : "alert ended", "data-severity": alert.severity },
    make("a", { href: `#${alert.name}`, text: alert.name }), make("span", { text: alert.summary }),
    make("time", { text: alert.until === null ? `since ${clock(alert.since)}` : `ended ${clock(alert.until)}, fired since ${clock(alert.since)}` })));
  if (!firing.length) list.unshift(make("p", { class: "calm", text: "No alert fires." }));
  $("alerts-list").replaceChildren(...list);
  // said aloud only when the set of alerts changes, not with every new figure in them
  setText($("alerts-said"), firing.length ? `${firing.length} alert${firing.length > 1 ? "s fire" : " fires"}: ${firing.map((a) => a.name).join(", ")}` : "No alert fires.");
}

function showState(live) {
  const [state, said] = !live.log_up ? ["away", "log away"] : live.frozen && live.ready ? ["waiting", "frozen"]
    : live.ready ? ["well", "ready"] : ["waiting", "not ready"];
  $("pill").dataset.state = state;
  setText($("pill"), said);
  setText($("model"), live.ready ? `model ${live.version}` : live.why_not_ready);
  document.title = live.alerts.some((a) => a.until === null) ? "▲ Freshet" : "Freshet";
}

// --- charts ----------------------------------------------------------------------------------------

const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 24;

function buildCharts() {
  CHARTS.forEach((chart, i) => {
    chart.plot = make("div", { class: "plot", role: "img" });
    chart.values = chart.lines.map(() => make("b", { text: "–" }));
    chart.items = chart.lines.map(([name, , color, style], k) => make("li", {},
      make("span", { class: `swatch c-${color} ${style || ""}`, "aria-hidden": "true" }), `${name} `, chart.values[k]));
    chart.when = make("li", { text: "" });
    chart.table = make("table");
    chart.details = make("details", {}, make("summary", { text: "As a table" }), make("div", { class: "wide" }, chart.table));
    chart.details.addEventListener("toggle", () => fillTable(chart));
    chart.plot.addEventListener("pointermove", (event) => { chart.at = event.clientX - chart.plot.getBoundingClientRect().left; showChart(chart); });
    chart.plot.addEventListener("pointerleave", () => { chart.at = undefined; showChart(chart); });
    const title = `chart-${i}`;
    chart.card = make("section", { class: "card", "aria-labelledby": title },
      make("h3", { id: title }, make("a", { href: `#${chart.where}`, text: chart.title })),
      make("ul", { class: "legend" }, ...chart.items, chart.when), chart.plot, chart.details);
    chart.card.hidden = chart.ofValue === true;
    $("charts").append(chart.card);
  });
}

function steps(low, high, about) {
  const raw = (high - low) / about;
  const size = 10 ** Math.floor(Math.log10(raw));
  return size * [1, 2, 5, 10].find((m) => size * m >= raw * 0.999);
}

function axis(chart, columns) {
  let low = Infinity, high = -Infinity;
  for (const column of columns) for (const y of column) if (y !== null) { low = Math.min(low, y); high = Math.max(high, y); }
  if (low > high) return null;
  if (chart.mark !== undefined) { low = Math.min(low, chart.mark); high = Math.max(high, chart.mark); }
  if (chart.zero) low = 0;
  if (high - low < chart.span) {
    const middle = chart.zero ? chart.span / 2 : (low + high) / 2;
    low = middle - chart.span / 2; high = middle + chart.span / 2;
  }
  const step = steps(low, high, 4);
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  if (chart.top !== undefined) high = chart.top;
  return { low, high, step };
}

function label(chart, y, step) {
  if (chart.format === ratio) return y.toFixed(Math.max(0, Math.min(4, Math.ceil(-Math.log10(step) - 1e-9))));
  return y === 0 && chart.format === seconds ? "0" : text(chart.format, y).replace(/^(\d+)\.0+(?= |$)/, "$1");
}

function showChart(chart) {
  const span = spans[chosen];
  const wide = chart.plot.clientWidth, tall = chart.plot.clientHeight;
  if (!span || wide < 60) return;
  const columns = chart.lines.map(([, name]) => span.columns[name] || []);
  const y = axis(chart, columns);
  if (y === null) {
    chart.plot.replaceChildren(make("div", { class: "wait", text: chosen === "coarse" && spans.fine.time.length && axis(chart, chart.lines.map(([, n]) => spans.fine.columns[n])) ? "the first minute is not over yet" : chart.empty }));
    chart.plot.setAttribute("aria-label", `${chart.title}: ${chart.empty}`);
    chart.values.forEach((at) => setText(at, "–"));
    return;
  }
  const end = span.time[span.time.length - 1];
  const length = chosen === "fine" ? FINE_POINTS : 86400;
  // young histories fill the width: a minute at least, then as long as there is something to see
  const begin = Math.max(end - length, Math.min(span.time[0], end - (chosen === "fine" ? 60 : 3600)));
  const px = (t) => LEFT + ((t - begin) / (end - begin || 1)) * (wide - LEFT - RIGHT);
  const py = (v) => TOP + ((y.high - v) / (y.high - y.low)) * (tall - TOP - BOTTOM);
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${tall}`, "aria-hidden": "true" });
  for (let v = y.low; v <= y.high + y.step / 100; v += y.step) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: wide - RIGHT, y1: py(v), y2: py(v) }));
    const at = draw("text", { x: LEFT - 7, y: py(v) + 4, "text-anchor": "end" });
    at.textContent = label(chart, v, y.step);
    svg.append(at);
  }
  for (const t of timeTicks(begin, end, wide)) {
    const at = draw("text", { x: px(t), y: tall - 5, "text-anchor": "middle" });
    at.textContent = clock(t, end - begin < 300);
    svg.append(at);
  }
  if (chart.mark !== undefined) svg.append(draw("line", { class: "mark", x1: LEFT, x2: wide - RIGHT, y1: py(chart.mark), y2: py(chart.mark) }));
  const gap = span.every_s * 3.5;
  columns.forEach((column, k) => {
    let path = "", pen = false, last = -Infinity, single = null;
    span.time.forEach((t, i) => {
      const v = column[i];
      if (v === null || v === undefined || t < begin) { pen = false; return; }
      if (t - last > gap) pen = false;
      path += `${pen ? "L" : "M"}${px(t).toFixed(1)} ${py(v).toFixed(1)}`;
      single = pen ? null : [px(t), py(v)];
      pen = true; last = t;
    });
    const [, , color, style] = chart.lines[k];
    if (path) svg.append(draw("path", { d: path, class: `c-${color} ${style || ""}` }));
    if (single) svg.append(draw("circle", { cx: single[0], cy: single[1], r: 3.5, class: `c-${color}` }));
  });
  let index = span.time.length - 1;
  if (chart.at !== undefined) {
    const t = begin + ((chart.at - LEFT) / (wide - LEFT - RIGHT)) * (end - begin);
    index = span.time.reduce((best, u, i) => (Math.abs(u - t) < Math.abs(span.time[best] - t) ? i : best), index);
    svg.append(draw("line", { class: "cross", x1: px(span.time[index]), x2: px(span.time[index]), y1: TOP, y2: tall - BOTTOM }));
    columns.forEach((column, k) => {
      if (column[index] !== null) svg.append(draw("circle", { cx: px(span.time[index]), cy: py(column[index]), r: 4, class: `c-${chart.lines[k][2]}` }));
    });
  }
  setText(chart.when, chart.at === undefined ? "" : `at ${clock(span.time[index], chosen === "fine")}`);
  chart.plot.replaceChildren(svg);
  columns.forEach((column, k) => {
    chart.items[k].hidden = column.every((v) => v === null);
    setText(chart.values[k], text(chart.format, column[index]));
  });
  const said = chart.lines.map(([name], k) => [name, columns[k][columns[k].length - 1]]).filter(([, v]) => v !== null && v !== undefined);
  chart.plot.setAttribute("aria-label", `${chart.title} over ${chosen === "fine" ? "ten minutes" : "a day"}; now ${said.map(([name, v]) => `${name} ${text(chart.format, v)}`).join(", ")}`);
}

function timeTicks(begin, end, wide) {
  const about = Math.max(2, Math.floor(wide / 130));
  const step = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200].find((s) => (end - begin) / s <= about) || 86400;
  const shift = new Date(end * 1000).getTimezoneOffset() * 60;
  const ticks = [];
  for (let t = Math.ceil((begin - shift) / step) * step + shift; t <= end; t += step) {
    const x = (t - begin) / (end - begin);
    if (x > 0.04 && x < 0.96) ticks.push(t);
  }
  return ticks;
}

function fillTable(chart) {
  const span = spans[chosen];
  if (!chart.details.open || !span) return;
  const last = span.time.length - 1;
  const rows = Math.min(TABLE_ROWS, last + 1);
  const chosenRows = Array.from({ length: rows }, (_, i) => (rows === 1 ? last : Math.round((last * (rows - 1 - i)) / (rows - 1))));
  chart.table.replaceChildren(
    make("thead", {}, make("tr", {}, make("th", { scope: "col", text: "time" }), ...chart.lines.map(([name]) => make("th", { scope: "col", text: name })))),
    make("tbody", {}, ...chosenRows.map((i) => make("tr", {}, make("th", { scope: "row", text: clock(span.time[i], chosen === "fine") }),
      ...chart.lines.map(([, name]) => make("td", { text: text(chart.format, span.columns[name][i]) }))))));
}

// --- asking the server -----------------------------------------------------------------------------

let spans = {}, chosen = "fine", step = -1, life = "", failures = 0, timer = 0, stopped = false;

class TokenError extends Error {}

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const answer = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {}, cache: "no-store" });
  if (answer.status === 401) throw new TokenError((await answer.json()).error);
  if (!answer.ok) throw new Error(`the server answers with ${answer.status}`);
  return answer.json();
}

function take(live) {
  // the points since the last answer; after a pause there may be a hole, and then all is asked for again
  const points = live.newest.time.length;
  const fresh = live.step - step;
  if (live.life !== life || fresh < 0 || fresh > points) return false;
  const fine = spans.fine;
  for (let i = points - fresh; i < points; i++) {
    fine.time.push(live.newest.time[i]);
    for (const name in fine.columns) fine.columns[name].push(live.newest.columns[name][i]);
  }
  while (fine.time.length > FINE_POINTS) {
    fine.time.shift();
    for (const name in fine.columns) fine.columns[name].shift();
  }
  step = live.step;
  return true;
}

// the server may hand out the same history for some seconds: the newest points come with every answer
async function load() {
  const history = await ask("/v1/live/history");
  spans = { fine: history.fine, coarse: history.coarse };
  step = history.step;
  life = history.life;
  loadedMinute = Math.floor(Date.now() / 60000);
}

let loadedMinute = 0;

async function turn() {
  clearTimeout(timer);
  if (document.hidden || stopped) return;
  try {
    const live = await ask("/v1/live");
    if (!take(live) || (chosen === "coarse" && Math.floor(Date.now() / 60000) !== loadedMinute)) {
      await load();
      take(live);
    }
    failures = 0;
    $("live").hidden = false;
    $("token").hidden = true;
    $("trouble").hidden = true;
    showState(live); showTiles(live); showTables(live); showTargets(live); showModels(live); showRoles(live); showAlerts(live);
    CHARTS.forEach(showChart);
  } catch (error) {
    if (error instanceof TokenError) return askToken(error);
    failures += 1;
    if (failures > 1) {  // one lost answer is no news
      $("pill").dataset.state = "away";
      setText($("pill"), "no answer");
      setText($("trouble"), "The server does not answer. What you see is from before; trying again.");
      $("trouble").hidden = false;
    }
  }
  timer = setTimeout(turn, Math.min(EVERY_MS * 2 ** Math.max(failures - 1, 0), AGAIN_MS_MAX));
}

function askToken(error) {
  stopped = true;
  const tried = sessionStorage.getItem("token") !== null;
  sessionStorage.removeItem("token");
  $("live").hidden = true;
  $("token").hidden = false;
  $("pill").dataset.state = "waiting";
  setText($("pill"), "locked");
  setText($("token-wrong"), tried ? `${error.message}.` : "");
  $("token-field").focus();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token-field").value.trim());
  $("token-field").value = "";
  stopped = false;
  turn();
});
document.querySelectorAll("input[name=span]").forEach((input) => input.addEventListener("change", () => {
  chosen = input.value;
  turn();
  CHARTS.forEach((chart) => { showChart(chart); fillTable(chart); });
}));
document.addEventListener("visibilitychange", turn);
window.addEventListener("resize", () => CHARTS.forEach(showChart));
// the texts are long: on a phone they are folded, until somebody follows a link into one
const phone = matchMedia("(max-width: 480px)");
function fold() {
  document.querySelectorAll(".prose > details").forEach((texts) => { texts.open = !phone.matches; });
  unfold(location.hash);
}
function unfold(hash) {
  const texts = hash.length > 1 && $(hash.slice(1))?.closest("details");
  if (texts) texts.open = true;
}
phone.addEventListener("change", fold);
document.addEventListener("click", (event) => { const to = event.target.closest?.('a[href^="#"]'); if (to) unfold(to.hash); });
addEventListener("hashchange", () => unfold(location.hash));

fold();
buildTiles();
buildCharts();
turn();
