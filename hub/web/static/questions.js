// The last questions, newest first: where each went, why, and what became of it.

import { element, ms, say, timeOf } from "./text.js";

const MOST = 100;
const STAGES = ["network", "queue", "prefill", "decode", "overhead"];

export class Questions {
  #list;
  #hold;
  #rows = new Map();
  #waiting = new Map();

  constructor(list, hold) {
    this.#list = list;
    this.#hold = hold;
    hold.addEventListener("change", () => this.#goOn());
  }

  replace(questions) {
    this.#waiting.clear();
    this.#rows.clear();
    this.#list.replaceChildren();
    this.change(questions);
  }

  /** Questions that are new or have changed, the oldest change first. Who reads one is not disturbed by others. */
  change(questions) {
    for (const question of questions) {
      const key = `${question.device}/${question.id}`;
      const row = this.#rows.get(key);
      if (row !== undefined) render(row, question);
      else this.#waiting.set(key, question);
    }
    while (this.#waiting.size > MOST) this.#waiting.delete(this.#waiting.keys().next().value);
    this.#goOn();
  }

  #goOn() {
    const held = this.#hold.checked || this.#list.querySelector("details[open]") !== null;
    if (!held) {
      for (const [key, question] of this.#waiting) this.#add(key, question);
      this.#waiting.clear();
    }
    const label = this.#hold.parentElement.lastChild;
    const text = this.#waiting.size ? ` hold still (${this.#waiting.size} more)` : " hold still";
    if (label.data !== text) label.data = text;
    document.getElementById("no-questions").hidden = this.#rows.size > 0;
  }

  #add(key, question) {
    const cells = { at: element("span", "quiet"), from: element("span"), to: element("span", "to") };
    cells.took = element("span", "number");
    cells.badge = element("span", "badge");
    const summary = element("summary", "", ...Object.values(cells).slice(0, 4), element("span", "how", cells.badge));
    const details = element("details", "", summary);
    const row = { cells, details, question, why: null, item: element("li", "", details) };
    details.addEventListener("toggle", () => {
      if (details.open) renderWhy(row);
      else this.#goOn();
    });
    this.#rows.set(key, row);
    this.#list.prepend(row.item);
    render(row, question);
    while (this.#rows.size > MOST) {
      const [oldest, old] = this.#rows.entries().next().value;
      this.#rows.delete(oldest);
      old.item.remove();
    }
  }
}

function render(row, question) {
  row.question = question;
  const { cells } = row;
  const { outcome } = question;
  const decision = question.decisions.at(-1);
  const node = outcome?.node ?? decision?.chosen;
  say(cells.at, timeOf(question.at_s));
  say(cells.from, question.device);
  cells.from.title = `${question.device}/${question.id}`;
  say(cells.to, node ? `→ ${node}` : "→ no node");
  say(cells.took, outcome ? `${ms(outcome.total_ms)} ms` : decision?.chosen ? `≈ ${ms(decision.predicted_ms)} ms` : "");
  say(cells.badge, outcome ? outcome.outcome : decision?.chosen ? "asked" : "waits");
  cells.badge.className = `badge ${outcome ? (outcome.outcome === "answered" ? "answered" : "failed") : "asked"}`;
  if (row.details.open) renderWhy(row);
}

function renderWhy(row) {
  const { outcome, decisions } = row.question;
  const why = element("div", "why", element("p", "quiet", `question ${row.question.device}/${row.question.id}`));
  if (outcome !== null) why.append(...outcomeParts(outcome));
  for (const decision of decisions) why.append(decisionPart(decision, true));
  if (!decisions.length) why.append(element("p", "", "No node was chosen for it, nor looked for."));
  row.why?.remove();
  row.why = why;
  row.details.append(why);
}

function outcomeParts(outcome) {
  const stack = element("div", "stack");
  stack.setAttribute("aria-hidden", "true");
  for (const name of STAGES) {
    const part = element("i", `mark ${name}`);
    part.style.flex = `${Math.max(outcome[`${name}_ms`], 0)} 0 0`;
    stack.append(part);
  }
  const stages = STAGES.map((name) => `${name} ${ms(outcome[`${name}_ms`])}`).join(" + ");
  const predicted = outcome.predicted_ms === null ? "" : `, ${ms(outcome.predicted_ms)} predicted`;
  const second = outcome.second ? `, a second node was asked (${outcome.second})` : "";
  return [stack, element("p", "", `${ms(outcome.total_ms)} ms${predicted}: ${stages}${second}`)];
}

/** The candidates of a choice, and why the losers lost; with `line` also as the hub logged it. */
export function decisionPart(decision, line) {
  const part = element("div", "across");
  const table = element("table", "candidates");
  const head = element("tr");
  const cause = decision.cause ? ` (${decision.cause})` : "";
  for (const name of [`attempt ${decision.attempt}${cause}`, "delay", "network", "wait", "prefill", "decode"]) {
    const cell = element("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  table.append(element("thead", "", head));
  const body = element("tbody");
  for (const one of decision.candidates) {
    const chosen = one.node === decision.chosen && !one.lost;
    const figures = [one.delay_ms, one.network_ms, one.queue_ms, one.prefill_ms, one.decode_ms];
    body.append(element("tr", chosen ? "chosen" : "", element("td", "", one.node), ...figures.map((value) => element("td", "", ms(value)))));
    body.append(reason(chosen ? "chosen" : one.lost));
  }
  for (const one of decision.rejected) {
    body.append(element("tr", "", element("td", "", one.node), ...[1, 2, 3, 4, 5].map(() => element("td", "", ""))), reason(one.reason));
  }
  table.append(body);
  part.append(table);
  if (decision.more) part.append(element("p", "quiet", `and ${decision.more} more`));
  if (line) part.append(element("p", "line", decision.line));
  return part;
}

function reason(text) {
  const cell = element("td", "", text);
  cell.colSpan = 6;
  return element("tr", "reason", cell);
}
