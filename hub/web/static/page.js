// The live page of a hub: hears the stream of what happens and hands it to the parts of the page.

import { Ask } from "./ask.js";
import { Charts } from "./charts.js";
import { Nodes } from "./nodes.js";
import { Questions } from "./questions.js";
import { Rollouts } from "./rollouts.js";
import { count, ms, parsed, percent, say } from "./text.js";

const SILENT_MS = 6000; // the hub speaks once a second
const AGAIN_MS = 2000;

const part = (id) => document.getElementById(id);
const nodes = new Nodes(part("nodes"), part("filter"), { confirm, trouble });
const questions = new Questions(part("questions"), part("hold"));
const rollouts = new Rollouts(part("rollouts"));
const ask = new Ask(part("ask"));
let charts = null;
let source = null;
let heardAt = 0;
let troubleTimer = null;

function connect() {
  source?.close();
  heardAt = performance.now();
  source = new EventSource("events");
  source.addEventListener("whole", (event) => take(parsed(event.data), true));
  source.addEventListener("change", (event) => take(parsed(event.data), false));
  source.addEventListener("error", () => {
    lost();
    if (source.readyState === EventSource.CLOSED) again(); // refused: a browser does not try again by itself
  });
}

/** Try again later; where the hub no longer knows this browser, go and log in. */
async function again() {
  try {
    const response = await fetch("./", { redirect: "manual", cache: "no-store" });
    if (response.type === "opaqueredirect") location.assign("login");
    else if (response.ok) say(part("link"), "too many pages watch this hub, trying again …");
  } catch {
    // not there now
  }
  setTimeout(connect, AGAIN_MS);
}

function take(told, whole) {
  heardAt = performance.now();
  charts ??= new Charts(told.stages);
  if (whole) {
    nodes.replace(told.nodes);
    questions.replace(told.questions);
    charts.replace(told.slots, told.now_s);
  } else {
    nodes.change(told.nodes, told.gone);
    questions.change(told.questions);
    charts.change(told.slots, told.now_s);
  }
  if (told.rollouts) rollouts.replace(told.rollouts);
  if (whole || Object.keys(told.nodes).length || told.gone.length) ask.offer(nodes.all);
  figures(told);
  show(told.connected ? "live" : "broken", told.connected ? "live" : "hub without broker");
}

function figures(told) {
  const all = nodes.all;
  const { hour } = told;
  const ended = hour.answered + hour.failed;
  say(part("hub"), told.hub);
  say(part("ready"), count(all.filter((view) => view.standing === "ready").length));
  say(part("known"), `of ${count(all.length)}`);
  say(part("rate"), told.per_s ? ms(told.per_s) : "0");
  say(part("in-flight"), count(told.in_flight));
  say(part("answered"), count(hour.answered));
  say(part("failed"), count(hour.failed));
  part("failed").classList.toggle("bad", hour.failed > 0);
  say(part("failed-share"), hour.failed ? percent(hour.failed / ended) : "");
  say(part("p50"), ms(hour.p50_ms));
  say(part("p95"), ms(hour.p95_ms));
  const title = `${told.hub}: ${part("ready").textContent} nodes, ${part("rate").textContent}/s`;
  if (document.title !== title) document.title = title;
}

function show(state, text) {
  part("link").dataset.state = state;
  say(part("link"), text);
  document.body.classList.remove("stale");
}

function lost() {
  part("link").dataset.state = "broken";
  say(part("link"), "connection lost, trying again …");
  document.body.classList.add("stale");
}

/** Ask before something is done. */
function confirm(heading, text, yes) {
  const dialog = part("confirm");
  say(part("confirm-heading"), heading);
  say(part("confirm-text"), text);
  say(part("confirm-yes"), yes);
  part("confirm-yes").className = yes === "Drain" ? "danger" : "";
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

function trouble(text) {
  part("trouble").hidden = false;
  say(part("trouble"), text);
  clearTimeout(troubleTimer);
  troubleTimer = setTimeout(() => (part("trouble").hidden = true), 15_000);
}

setInterval(() => {
  if (source.readyState === EventSource.OPEN && performance.now() - heardAt > SILENT_MS) {
    lost();
    connect();
  }
}, 1000);

connect();
