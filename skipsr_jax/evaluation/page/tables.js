// Tables of scores and plots, as elements.

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 8;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function colour(index) {
  return `var(--c${index % COLOURS})`;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value; // an infinity, which JSON has not
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 3 : 4);
}

// The best of numbers by a metric's target (the nearest is best) or its direction (1: higher is better,
// -1: lower, 0: neither); null where there is none, or where the values are doubtful.
function best(values, metric, doubtful = []) {
  const known = values.filter((value) => typeof value === "number");
  if (known.length < 2 || doubtful.includes(metric.name)) return null;
  if (typeof metric.target === "number") {
    const distance = (value) => Math.abs(value - metric.target);
    return known.reduce((top, value) => (distance(value) < distance(top) ? value : top));
  }
  if (!metric.direction) return null;
  return metric.direction > 0 ? Math.max(...known) : Math.min(...known);
}

function metricTitle(metric) {
  const target = typeof metric.target === "number" ? ` →${metric.target}` : "";
  const arrow = { "1": " ↑", "-1": " ↓", "0": target }[String(metric.direction)];
  return element("th", { scope: "col", title: metric.text }, metric.name + arrow);
}

// rows: [{ title, name, values: { metric: value } }]; the best value of each column is marked, but for doubtful ones.
function scoreTable(rows, metrics, heading, doubtful = []) {
  const used = metrics.filter((metric) => rows.some((row) => row.values[metric.name] !== undefined));
  const head = element("tr", {}, element("th", { scope: "col" }, heading), ...used.map(metricTitle));
  const tops = used.map((metric) => best(rows.map((row) => row.values[metric.name]), metric, doubtful));
  const body = rows.map((row) => element("tr", {}, element("th", { scope: "row" }, row.title),
    ...used.map((metric, i) => {
      const value = row.values[metric.name];
      return element("td", tops[i] !== null && value === tops[i] ? { class: "best" } : {}, number(value));
    })));
  return wrapped(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

// Clips against results by one metric. A click on a clip's name calls `open(index)`.
function clipTable(clips, results, metric, current, open) {
  const head = element("tr", {}, element("th", { scope: "col" }, "Clip"),
    ...results.map((name) => element("th", { scope: "col" }, name)));
  const body = clips.map((clip, index) => {
    const values = results.map((name) => clip.scores[name]?.[metric.name]);
    const top = best(values, metric, clip.doubtful);
    const button = element("button", { type: "button", onclick: () => open(index) }, clip.name);
    return element("tr", index === current ? { class: "current" } : {},
      element("th", { scope: "row" }, button),
      ...values.map((value) => element("td", top !== null && value === top ? { class: "best" } : {}, number(value))));
  });
  return wrapped(element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function wrapped(table) {
  return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table" }, table);
}

// Lines of percent over frames, with a playhead. series: [{ name, values }]. Returns { figure, setFrame }.
function lineChart(series, frames, label) {
  const [width, height, left, bottom, top] = [chartWidth(), 240, 46, 28, 8];
  const across = width - left - 8;
  const down = height - bottom - top;
  const x = (frame) => left + (across * frame) / Math.max(1, frames);
  const y = (value) => top + down * (1 - value / 100);
  const chart = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of [0, 25, 50, 75, 100]) {
    chart.append(svg("line", { class: "axis", x1: left, x2: width - 8, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, `${value} %`));
  }
  const every = Math.max(1, Math.ceil(frames / 10));
  for (let frame = 0; frame < frames; frame += every) {
    chart.append(svg("text", { x: x(frame + 0.5), y: height - 8, "text-anchor": "middle" }, String(frame)));
  }
  series.forEach(({ values }, i) => {
    const steps = values.map((value, frame) => `${frame ? "L" : "M"}${x(frame)} ${y(value)}H${x(frame + 1)}`);
    chart.append(svg("path", { d: steps.join(""), fill: "none", stroke: colour(i), "stroke-width": 2 }));
  });
  const playhead = chart.appendChild(svg("line", { class: "playhead", y1: top, y2: top + down }));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const texts = series.map(({ name, values }) => `${name}: ${mean(values).toFixed(1)} % on average over frames`);
  const now = element("span");
  const setFrame = (frame) => {
    playhead.setAttribute("x1", x(frame + 0.5));
    playhead.setAttribute("x2", x(frame + 0.5));
    now.textContent = `frame ${frame}: ${series.map(({ values }) => `${values[frame].toFixed(1)} %`).join(", ")}`;
  };
  setFrame(0);
  return { figure: element("figure", {}, chart, legend(texts, now)), setFrame };
}

// Pixels of the page for a chart, so that its text is as large as other text.
function chartWidth() {
  return Math.max(240, Math.min(1000, document.querySelector("main").clientWidth));
}

function legend(texts, ...rest) {
  const keys = texts.map((text, i) => element("span", {}, element("i", { class: "key", style: `background:${colour(i)}` }), ` ${text}`));
  return element("figcaption", { class: "legend" }, ...keys, ...rest);
}

// Bars of stages on one scale. rows: [{ name, stages: { stage: seconds } }].
function stageChart(rows) {
  const stages = [...new Set(rows.flatMap((row) => Object.keys(row.stages)))]
    .filter((stage) => rows.some((row) => row.stages[stage] >= 0.005));
  const total = (row) => stages.reduce((sum, stage) => sum + (row.stages[stage] ?? 0), 0);
  const longest = Math.max(...rows.map(total), 1e-9);
  const [width, bar, gap, textHeight] = [chartWidth(), 22, 12, 18];
  const height = rows.length * (bar + gap + textHeight);
  const chart = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Seconds of each stage, stacked; the table below has the numbers" });
  rows.forEach((row, i) => {
    const top = i * (bar + gap + textHeight);
    chart.append(svg("text", { x: 0, y: top + 13 }, `${row.name}, ${number(total(row))} s`));
    let x = 0;
    stages.forEach((stage, j) => {
      const size = (width * (row.stages[stage] ?? 0)) / longest;
      chart.append(svg("rect", { x, y: top + textHeight, width: size, height: bar, fill: colour(j) },
        svg("title", {}, `${stage}: ${number(row.stages[stage] ?? 0)} s`)));
      x += size;
    });
  });
  const metrics = stages.map((name) => ({ name, direction: 0, text: "seconds" }));
  metrics.push({ name: "sum", direction: 0, text: "seconds" });
  const table = scoreTable(rows.map((row) => ({ title: row.name, values: { ...row.stages, sum: total(row) } })), metrics, "Seconds");
  return element("figure", {}, chart, legend(stages), table);
}
