// Rollouts, the last one first: which bundle, how far each is, who did not take it and why.

import { count, element, say, size, timeOf } from "./text.js";

// Phases in the order of the bar, and the look of each: what is good, under way, not begun, going back, wrong.
const LOOKS = {
  serving: "good", trial: "moving", warming: "moving", checking: "moving", fetching: "moving", waiting: "moving", told: "moving",
  queued: "idle", absent: "idle", undoing: "back", undone: "back", stuck: "wrong", failed: "wrong",
};
const BADGES = { waiting: "asked", active: "asked", done: "answered", stopped: "failed", cancelled: "", damaged: "failed" };

export class Rollouts {
  #section;
  #list;
  #shown = new Map();

  constructor(section) {
    this.#section = section;
    this.#list = section.querySelector("ul");
  }

  /** All that are to be shown. One that was shown stays where it is, open or not. */
  replace(rollouts) {
    const before = this.#shown;
    this.#shown = new Map(rollouts.map((rollout) => [rollout.name, before.get(rollout.name) ?? made()]));
    for (const rollout of rollouts) render(this.#shown.get(rollout.name), rollout);
    const items = [...this.#shown.values()].map((row) => row.item);
    if (items.length !== this.#list.children.length || items.some((item, at) => this.#list.children[at] !== item)) {
      this.#list.replaceChildren(...items);
    }
    this.#section.hidden = items.length === 0;
  }
}

function made() {
  const row = { name: element("b"), badge: element("span", "badge"), what: element("span"), wave: element("span", "quiet") };
  row.bytes = element("span", "quiet number");
  row.bar = element("div", "stack");
  row.bar.setAttribute("aria-hidden", "true");
  row.phases = element("ul", "legend");
  row.why = element("p", "why-text");
  row.summary = element("summary");
  row.nodes = element("ul", "troubled");
  row.trouble = element("details", "", row.summary, row.nodes);
  const head = element("div", "rollout-head", row.name, row.badge, row.what, row.wave, row.bytes);
  row.item = element("li", "", head, row.bar, row.phases, row.why, row.trouble);
  return row;
}

function render(row, rollout) {
  say(row.name, rollout.name);
  say(row.badge, rollout.status);
  row.badge.className = `badge ${BADGES[rollout.status] ?? ""}`;
  const damaged = rollout.status === "damaged";
  say(row.what, damaged ? "" : `${rollout.bundle} version ${rollout.version}`);
  row.item.title = damaged ? "" : `ordered at ${timeOf(rollout.at_s)}`;
  say(row.wave, damaged ? "" : rollout.waves ? `wave ${rollout.wave} of ${rollout.waves}, ${count(rollout.nodes)} nodes` : "no node is there yet");
  say(row.bytes, rollout.fetched_bytes ? `${size(rollout.fetched_bytes)} travelled` : "");
  const phases = Object.keys(LOOKS).filter((phase) => rollout.phases[phase]);
  const drawn = phases.map((phase) => `${phase} ${rollout.phases[phase]}`).join();
  if (row.drawn !== drawn) {
    row.drawn = drawn;
    row.bar.replaceChildren(...phases.map((phase) => bar(phase, rollout.phases[phase])));
    row.phases.replaceChildren(...phases.map((phase) => entry(phase, rollout.phases[phase])));
  }
  say(row.why, rollout.why);
  row.why.hidden = !rollout.why;
  const all = rollout.trouble.length + rollout.more_trouble;
  row.trouble.hidden = all === 0;
  say(row.summary, `${count(all)} ${all === 1 ? "node" : "nodes"} without it`);
  const lines = rollout.trouble.map((one) => `${one.node} ${one.phase}${one.why ? `: ${one.why}` : ""}`);
  if (rollout.more_trouble) lines.push(`and ${count(rollout.more_trouble)} more`);
  if (row.lines !== lines.join("\n")) {
    row.lines = lines.join("\n");
    row.nodes.replaceChildren(...lines.map((line) => element("li", "", line)));
  }
}

function bar(phase, nodes) {
  const part = element("i", `mark ${LOOKS[phase]}`);
  part.style.flex = `${nodes} 0 0`;
  return part;
}

function entry(phase, nodes) {
  return element("li", "", element("i", `mark ${LOOKS[phase]}`), element("b", "", count(nodes)), ` ${phase}`);
}
