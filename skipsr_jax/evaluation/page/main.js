// Fills the page from its contents and connects the controls.

const contents = JSON.parse(document.getElementById("contents").textContent);
const $ = (id) => document.getElementById(id);
const state = { clip: 0, left: 0, right: 1, mask: 0 };
let elements = new Map();
let setChartFrame = () => {};

const clock = new Clock(showFrame);
let viewer = null; // its constructor reports a zoom
viewer = new Viewer($("viewer"), showZoom);

function clip() {
  return contents.clips[state.clip];
}

function fillSelect(select, names, chosen) {
  select.replaceChildren(...names.map((name, i) => element("option", { value: i }, name)));
  select.value = chosen;
}

function versionElement(index) {
  if (!elements.has(index)) elements.set(index, pictureElement(clip().versions[index], clip()));
  return elements.get(index);
}

// Which version a side of a clip shows: the one of the name that it showed, else a sensible one.
function chooseVersions(names) {
  const versions = clip().versions;
  const find = (test) => versions.findIndex(test);
  let [left, right] = names.map((name) => find((version) => version.name === name));
  if (left < 0) left = Math.max(0, find((version) => version.role === "input"));
  if (right < 0) right = find((version, i) => version.role === "result" && i !== left);
  if (right < 0 || right === left) right = versions.length > 1 ? (left + 1) % versions.length : left;
  Object.assign(state, { left, right });
}

function openClip(index) {
  const shown = clip().versions;
  const names = elements.size ? [shown[state.left]?.name, shown[state.right]?.name] : [null, null];
  const frame = elements.size ? 0 : clock.frame;
  clock.pause();
  for (const old of elements.values()) old.removeAttribute("src");
  elements = new Map();
  state.clip = (index + contents.clips.length) % contents.clips.length;
  chooseVersions(names);
  clock.frame = frame;
  $("clip").value = state.clip;
  const versions = clip().versions.map((version) => version.name);
  fillSelect($("left"), versions, state.left);
  fillSelect($("right"), versions, state.right);
  viewer.setShape(clip());
  $("transport").hidden = clip().frames < 2;
  $("frame").max = clip().frames - 1;
  const masks = clip().masks;
  state.mask = Math.min(state.mask, Math.max(0, masks.length - 1));
  fillSelect($("mask-name"), masks.map((mask) => mask.name), state.mask);
  $("mask-label").hidden = !masks.length;
  showClipFacts();
  showSides();
}

async function showSides() {
  for (const side of ["left", "right"]) {
    viewer.show(side, versionElement(state[side]), clip().versions[state[side]].name);
    $(side).value = state[side];
  }
  const visible = [...new Set([state.left, state.right])].map(versionElement);
  const videos = visible.filter((shown) => shown.tagName === "VIDEO");
  for (const hidden of elements.values()) if (hidden.pause && !videos.includes(hidden)) hidden.pause();
  const sizes = [state.left, state.right].map((index) => {
    const version = clip().versions[index];
    return `${version.name}: ${version.width}×${version.height}, ${version.file}`;
  });
  $("sizes").textContent = sizes.join(" · ");
  await clock.setVideos(videos, clip().rate ?? 1, clip().frames);
}

function chooseSide(side, index) {
  const other = side === "left" ? "right" : "left";
  if (state[other] === index) state[other] = state[side];
  state[side] = index;
  showSides();
}

function swap() {
  chooseSide("left", state.right);
}

function showFrame() {
  if (!contents.clips.length) return;
  $("frame").value = clock.frame;
  $("frame-number").textContent = `${clock.frame} / ${clip().frames - 1}`;
  $("play").textContent = clock.playing ? "Pause" : "Play";
  setChartFrame(clock.frame);
  showMask();
  saveState();
}

function showMask() {
  const mask = clip().masks[state.mask];
  const on = Boolean(mask) && $("mask").checked;
  viewer.mask.hidden = !on;
  $("mask-legend").hidden = !on;
  $("mask-name").hidden = !on || clip().masks.length < 2;
  if (on) viewer.drawMask(mask, clock.frame, clip());
}

function pixelScale() { // of the view where one pixel of the picture is one of the screen
  return clip().width / (viewer.root.clientWidth * devicePixelRatio);
}

function showZoom(view) {
  if (!viewer) return;
  view.least = pixelScale();
  $("zoom-scale").textContent = `${Math.round((100 * view.scale) / pixelScale())} %`;
  if (!viewer.mask.hidden && viewer.maskLine() !== viewer.drawnLine) showMask();
}

function showClipFacts() {
  const now = clip();
  const results = Object.keys(now.scores);
  const rows = results.map((name) => ({ title: name, values: now.scores[name] }));
  fill("clip-scores", rows.length ? [scoreTable(rows, contents.metrics, "Result", now.doubtful)] : []);
  const series = now.masks.map((mask) => ({ name: mask.name, values: skippedPercent(mask, now.frames) }));
  const chart = series.length && now.frames > 1 ? lineChart(series, now.frames, "Percent of skipped patches by frame") : null;
  setChartFrame = chart ? chart.setFrame : () => {};
  setChartFrame(Math.min(clock.frame, now.frames - 1));
  const still = series.map(({ name, values }) => `${name}: ${values[0].toFixed(1)} %`);
  fill("skipped", chart ? [chart.figure] : still.length ? [element("figure", {}, legend(still))] : []);
  const timed = now.versions.filter((version) => Object.keys(version.seconds).length);
  fill("stages", timed.length ? [stageChart(timed.map((version) => ({ name: version.name, stages: version.seconds })))] : []);
  showAllClips();
}

function showAllClips() {
  const results = Object.keys(contents.means);
  const metric = contents.metrics[$("metric").value];
  const useful = metric && contents.clips.length > 1;
  fill("all-clips", useful ? [clipTable(contents.clips, results, metric, state.clip, openFromTable)] : []);
}

function openFromTable(index) {
  openClip(index);
  $("clip-heading").scrollIntoView();
}

function fill(id, children) {
  $(id).hidden = !children.length;
  $(id).querySelector("div").replaceChildren(...children);
}

// The place in the page, in its address, so that a reload or a copied link finds it again.
function saveState() {
  const versions = clip().versions;
  const values = { clip: clip().name, left: versions[state.left]?.name, right: versions[state.right]?.name, frame: clock.frame };
  try {
    history.replaceState(null, "", `#${new URLSearchParams(values)}`);
  } catch (error) { /* more changes a second than the browser allows: the next one is kept */ }
}

function start() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  fillSelect($("clip"), contents.clips.map((one) => one.name), 0);
  fillSelect($("metric"), contents.metrics.map((metric) => metric.name), 0);
  for (const id of ["clip-before", "clip-after"]) $(id).hidden = contents.clips.length < 2;
  const results = Object.keys(contents.means);
  $("facts").textContent = contents.facts;
  const rows = results.map((name) => ({ title: name, values: contents.means[name] }));
  fill("means", rows.length && contents.clips.length > 1 ? [scoreTable(rows, contents.metrics, "Result", contents.doubtful)] : []);
  fill("plots", contents.plots.map((plot) => element("figure", {},
    element("img", { src: urlOf(plot.source), alt: plot.caption }), element("figcaption", {}, plot.caption))));
  $("notes").querySelector("ul").replaceChildren(...contents.notes.map((note) => element("li", {}, note)));
  const first = contents.clips.findIndex((one) => one.name === wanted.get("clip"));
  state.clip = Math.max(0, first);
  clock.frame = Number(wanted.get("frame")) || 0;
  openClip(state.clip);
  chooseVersions([wanted.get("left"), wanted.get("right")]);
  showSides();
}

const middle = (factor) => viewer.view.zoomAt(0.5, 0.5, factor);
const actions = {
  "clip-before": () => openClip(state.clip - 1),
  "clip-after": () => openClip(state.clip + 1),
  swap,
  play: () => (clock.playing ? clock.halt() : clock.play()),
  "frame-before": () => clock.step(-1),
  "frame-after": () => clock.step(1),
  "zoom-in": () => middle(1.5),
  "zoom-out": () => middle(1 / 1.5),
  "zoom-fit": () => viewer.view.reset(),
  "zoom-pixels": () => middle(pixelScale() / viewer.view.scale),
};
for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);
$("clip").addEventListener("change", () => openClip(Number($("clip").value)));
$("left").addEventListener("change", () => chooseSide("left", Number($("left").value)));
$("right").addEventListener("change", () => chooseSide("right", Number($("right").value)));
$("frame").addEventListener("input", () => { clock.pause(); clock.seek(Number($("frame").value)); });
$("speed").addEventListener("change", () => clock.setSpeed(Number($("speed").value)));
$("mask").addEventListener("change", showMask);
$("mask-name").addEventListener("change", () => { state.mask = Number($("mask-name").value); showMask(); });
$("pixelated").addEventListener("change", () => viewer.root.classList.toggle("pixelated", $("pixelated").checked));
$("metric").addEventListener("change", showAllClips);

let resized = 0;
addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(showClipFacts, 150); });

const keys = { "[": "clip-before", "]": "clip-after", x: "swap", " ": "play", ",": "frame-before", ".": "frame-after",
  "+": "zoom-in", "=": "zoom-in", "-": "zoom-out", "0": "zoom-fit", "1": "zoom-pixels", m: "mask", p: "pixelated" };
document.addEventListener("keydown", (event) => {
  if (keyIsTaken(event)) return;
  const id = keys[event.key.toLowerCase()];
  if (id && !$(id).closest("[hidden]")) {
    $(id).click();
    event.preventDefault();
    return;
  }
  const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!direction) return;
  const zoomed = viewer.view.scale > 1 && document.activeElement === viewer.root;
  if (zoomed) viewer.view.moveBy(-direction[0] * 0.1, -direction[1] * 0.1);
  else if (direction[0]) viewer.setSplit(viewer.split + direction[0] * (event.shiftKey ? 0.1 : 0.01));
  else return;
  event.preventDefault();
});
start();
