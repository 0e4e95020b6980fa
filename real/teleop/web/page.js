// The page: what is seen of the robot, and what a person does. Words from outside are set as text, never as markup.
import { Connection } from "/connection.js";
import { Cues } from "/cues.js";
import { Inputs } from "/inputs.js";
import { Phone } from "/phone.js";

const at = (id) => document.getElementById(id);
if (location.search) history.replaceState(null, "", "/"); // the key is a cookie now, and need not stay in sight

let status = null;
let connection = null;
const press = (name) => {
  if (!connection.press(name) && name === "stop") say("NOT CONNECTED: use the robot's own stop; a stop is sent as soon as possible", true);
};
const inputs = new Inputs(press);
const phone = new Phone(at("phone"), at("ar"), at("phonehelp"));
inputs.pose = () => phone.read();
const cues = new Cues(inputs);
const canvases = new Map();

function say(text, refused) {
  at("line").textContent = text;
  at("line").classList.toggle("refused", Boolean(refused));
}

function text(element, value) { if (element.textContent !== value) element.textContent = value; }

async function draw(name, blob) {
  const bitmap = await createImageBitmap(blob);
  let canvas = canvases.get(name);
  if (!canvas) {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    canvas = document.createElement("canvas");
    canvas.dataset.camera = name;
    caption.textContent = name.replace("observation.images.", "");
    figure.append(canvas, caption);
    at("cameras").append(figure);
    canvases.set(name, canvas);
  }
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) { canvas.width = bitmap.width; canvas.height = bitmap.height; }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
}

function facts(rows) {
  const list = at("facts");
  while (list.children.length > 2 * rows.length) list.lastChild.remove();
  while (list.children.length < 2 * rows.length) list.append(document.createElement(list.children.length % 2 ? "dd" : "dt"));
  rows.forEach(([name, value], n) => { text(list.children[2 * n], name); text(list.children[2 * n + 1], value); });
}

function readings(values, names) {
  const table = at("readings").querySelector("table");
  if (!at("readings").open) return;
  table.replaceChildren(...Object.entries(values).map(([name, numbers]) => {
    const row = document.createElement("tr");
    const labels = names[name] || [];
    const cells = (Array.isArray(numbers) ? numbers : [numbers]).map((x, n) => (labels[n] ? `${labels[n]} ` : "") + (x === null ? "–" : Number(x).toFixed(3)));
    for (const cell of [name, cells.join("  ")]) { const td = document.createElement("td"); td.textContent = cell; row.append(td); }
    return row;
  }));
}

function show(now) {
  const run = now.run, teleop = now.teleop || {}, about = now.about || {};
  const state = run ? String(run.state) : "offline";
  text(at("state"), run ? state.toUpperCase() : "NO ROBOT");
  if (at("state").className !== state) at("state").className = state;
  text(at("cause"), run && run.cause ? String(run.cause) : "");
  at("recording").classList.toggle("on", teleop.recording === true);
  at("takeover").classList.toggle("on", teleop.taken === true);
  at("clutch").classList.toggle("on", teleop.clutch === true);
  text(at("task"), String(teleop.task || ""));
  if (teleop.line && teleop.line !== show.line) say(String(teleop.line), false);
  show.line = teleop.line;
  inputs.taken = teleop.taken === true;
  inputs.count = (about.joints || []).length;
  at("jointwise").hidden = !inputs.count;
  text(at("joint"), inputs.count ? String(about.joints[inputs.joint]) : "");
  const counts = teleop.counts || {};
  const mine = now.control.yours, holder = now.control.holder;
  document.body.classList.toggle("watching", !mine && holder !== null);
  text(at("control"), mine ? "Give the controls back" : "Take the controls");
  facts([
    ["robot", String(now.robot || about.name || "")],
    ["episode", `${Number(teleop.episode ?? 0) + 1}${teleop.episodes ? ` of ${teleop.episodes}` : ""}`],
    ["kept", `${counts.success ?? 0} good, ${counts.failure ?? 0} bad, ${counts.discard ?? 0} discarded`],
    ["speed", run && run.speed !== null ? `${Math.round(100 * run.speed)} % of the robot's` : ""],
    ["frame", String(teleop.frame || "")],
    ["controls", mine ? "yours" : holder === null ? "free: move, or take them" : `of browser ${holder}; you look on`],
    ["device age", now.control.age_s === null ? "–" : `${Math.round(1000 * now.control.age_s)} ms${now.control.stale ? " (too old: clutch open)" : ""}`],
    ["latency", connection.latency === null ? "–" : `${connection.latency.toFixed(0)} ms there and back`],
  ]);
  readings(now.readings || {}, about.fields || {});
  if (Math.round(100 * inputs.dial) !== Number(at("dial").value)) at("dial").value = String(Math.round(100 * inputs.dial));
  text(at("dialed"), `${Math.round(100 * inputs.dial)} %`);
}

function hear(message) {
  if (message.kind === "status") {
    status = message;
    if (message.trusted) show(message);
  } else if (message.kind === "line") {
    say(message.text, message.refused);
  } else if (message.kind === "cue") {
    cues.play(message.name, message.yours);
  } else if (message.kind === "closed") {
    status = null;
    inputs.letGo();
    inputs.looked = document.hasFocus() && !document.hidden;
    text(at("state"), "NOT CONNECTED");
    at("state").className = "offline";
    text(at("cause"), "the robot no longer follows this page");
  }
}

connection = new Connection(() => inputs.read(), hear, draw);
for (const button of document.querySelectorAll("[data-event]")) {
  button.addEventListener("pointerdown", () => press(button.dataset.event));
  button.addEventListener("keydown", (event) => event.preventDefault()); // Enter is a key of its own here
}
at("control").addEventListener("click", () => connection.send({ kind: "control", value: status && status.control && status.control.yours ? 0 : 1 }));
at("dial").addEventListener("input", () => { inputs.dial = Number(at("dial").value) / 100; });
at("dial").addEventListener("change", () => at("dial").blur());
at("joints").addEventListener("change", () => { inputs.jointwise = at("joints").checked; at("joints").blur(); });
at("quit").addEventListener("click", () => {
  if (at("quit").dataset.asked) press("quit");
  at("quit").dataset.asked = at("quit").dataset.asked ? "" : "yes";
  text(at("quit"), at("quit").dataset.asked ? "Really end it?" : "End session");
});
// What scripts may look at (tests, accessibility tools): nothing here moves the robot.
window.robopolicy = { get status() { return status; }, get latency() { return connection.latency; }, get cues() { return cues.heard; }, get held() { return inputs.read(); } };
