// A blind study: pairs in an order and on sides that the viewer's name decides, and three answers.

const contents = JSON.parse(document.getElementById("contents").textContent);
const $ = (id) => document.getElementById(id);
const state = { viewer: "", order: [], index: 0, answers: {}, began: 0 };
const panes = [$("pane-1"), $("pane-2")];
let shown = [];

// Numbers from 0 to 1 that a text decides (FNV-1a, then mulberry32).
function randomOf(text) {
  let hash = 2166136261;
  for (const character of text) hash = Math.imul(hash ^ character.codePointAt(0), 16777619);
  return () => {
    hash = (hash + 0x6d2b79f5) | 0;
    let mixed = Math.imul(hash ^ (hash >>> 15), 1 | hash);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(values, random) {
  const result = [...values];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

// [{ pair, sides: ["x", "y"] or ["y", "x"] }]: x comes first in half of the pairs.
function orderFor(viewer) {
  const random = randomOf(contents.key + viewer);
  const order = shuffled(contents.pairs.keys(), random);
  const first = shuffled(order.map((_, i) => i % 2 === 0), random);
  return order.map((pair, i) => ({ pair, sides: first[i] ? ["x", "y"] : ["y", "x"] }));
}

const clock = new Clock(() => {
  const pair = now();
  if (!pair) return;
  $("frame").value = clock.frame;
  $("frame-number").textContent = `${clock.frame} / ${pair.frames - 1}`;
  $("play").textContent = clock.playing ? "Pause" : "Play";
});
const view = new View((changed) => {
  for (const pane of panes) {
    changed.apply(pane.firstElementChild);
    pane.classList.toggle("zoomed", changed.scale > 1);
  }
});
for (const pane of panes) attachPointers(pane, view);

function now() {
  const trial = state.order[state.index];
  return trial && contents.pairs[trial.pair];
}

// What was answered is kept in the browser, where it allows that, so that a reload loses nothing.
const storageKey = () => `study ${contents.key.slice(-40)} ${state.viewer}`;
function remember() {
  try { localStorage.setItem(storageKey(), JSON.stringify(state.answers)); } catch (error) { /* not allowed from disk */ }
}
function recall() {
  try { return JSON.parse(localStorage.getItem(storageKey())) ?? {}; } catch (error) { return {}; }
}

function begin(viewer) {
  state.viewer = viewer;
  state.order = orderFor(viewer);
  state.answers = recall();
  const open = state.order.findIndex(({ pair }) => !(pair in state.answers));
  $("welcome").hidden = true;
  showTrial(open < 0 ? state.order.length : open);
}

async function showTrial(index) {
  state.index = index;
  clock.pause();
  for (const element of shown) element.removeAttribute("src");
  shown = [];
  const finished = index >= state.order.length;
  $("trial").hidden = finished;
  $("end").hidden = !finished;
  if (finished) return $("save").focus();
  const pair = now();
  $("progress").textContent = `Pair ${index + 1} of ${state.order.length}`;
  $("back").disabled = index === 0;
  $("transport").hidden = pair.frames < 2;
  $("frame").max = pair.frames - 1;
  $("input-label").hidden = !pair.versions.input;
  $("show-input").checked = false;
  const given = state.answers[state.order[index].pair]?.answer;
  for (const button of document.querySelectorAll("[data-answer]")) {
    button.setAttribute("aria-pressed", given !== undefined && given === answerOf(button.dataset.answer));
  }
  view.reset();
  clock.frame = 0;
  await showPictures();
  state.began = performance.now();
  return undefined;
}

async function showPictures() {
  const pair = now();
  const { sides } = state.order[state.index];
  const names = $("show-input").checked ? ["input", "input"] : sides;
  shown = names.map((name, i) => pictureElement({ ...pair.versions[name], name: `Version ${i + 1}` }, { ...pair, name: "this pair" }));
  shown.forEach((element, i) => {
    panes[i].style.aspectRatio = (pair.width * pair.pixel_aspect) / pair.height;
    panes[i].firstElementChild.replaceChildren(element);
  });
  await clock.setVideos(shown.filter((element) => element.tagName === "VIDEO"), pair.rate, pair.frames);
}

// "1", "2" or "same" on the screen as the file that is better, "x" or "y", or "same".
function answerOf(choice) {
  return choice === "same" ? "same" : state.order[state.index].sides[Number(choice) - 1];
}

function answer(choice) {
  const { pair, sides } = state.order[state.index];
  const seconds = Math.round((performance.now() - state.began) / 100) / 10;
  state.answers[pair] = { pair, answer: answerOf(choice), first: sides[0], position: state.index, seconds };
  remember();
  showTrial(state.index + 1);
}

function answersFile() {
  const answers = Object.values(state.answers).sort((a, b) => a.position - b.position);
  return { study: contents.title, viewer: state.viewer, saved: new Date().toISOString(), key: contents.key, answers };
}

function save() {
  const text = JSON.stringify(answersFile(), null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `answers_${state.viewer.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
  link.click();
}

$("count").textContent = contents.pairs.length === 1 ? "1 pair" : `${contents.pairs.length} pairs`;
$("question").textContent = contents.question;
$("welcome").addEventListener("submit", (event) => {
  event.preventDefault();
  const viewer = $("viewer").value.trim();
  if (viewer) begin(viewer);
});
for (const button of document.querySelectorAll("[data-answer]")) {
  button.addEventListener("click", () => answer(button.dataset.answer));
}
const actions = {
  play: () => (clock.playing ? clock.halt() : clock.play()),
  "zoom-in": () => view.zoomAt(0.5, 0.5, 1.5),
  "zoom-out": () => view.zoomAt(0.5, 0.5, 1 / 1.5),
  "zoom-fit": () => view.reset(),
  back: () => showTrial(state.index - 1),
  review: () => showTrial(state.order.length - 1),
  save,
};
for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", act);
$("frame").addEventListener("input", () => { clock.pause(); clock.seek(Number($("frame").value)); });
$("show-input").addEventListener("change", showPictures);

const keys = { " ": "play", "+": "zoom-in", "=": "zoom-in", "-": "zoom-out", "0": "zoom-fit", i: "show-input", Backspace: "back" };
const choices = { 1: "1", s: "same", 2: "2" };
document.addEventListener("keydown", (event) => {
  if (event.repeat || keyIsTaken(event) || $("trial").hidden) return;
  const id = keys[event.key];
  const choice = choices[event.key.toLowerCase()];
  if (choice) answer(choice);
  else if (event.key === "," || event.key === ".") clock.step(event.key === "." ? 1 : -1);
  else if (id && !$(id).disabled && !$(id).closest("[hidden]")) $(id).click();
  else return;
  event.preventDefault();
});
