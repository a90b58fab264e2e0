// The table of nodes: one row per name, changed in place, so that 500 of them cost nothing while they stand still.

import { count, element, ms, NOTHING, percent, say } from "./text.js";

const STANDINGS = ["ready", "suspect", "draining", "lost", "gone"];
const HOT_C = 85;
const OBEYS_WITHIN_MS = 10_000;
const FEW = 10; // leave room for the questions beneath them

const names = new Intl.Collator("en", { numeric: true });
const first = (view) => view.bundles[0];

// What a column is sorted by; a node without a figure comes last.
const KEYS = {
  standing: (row) => STANDINGS.indexOf(row.view.standing),
  model: (row) => first(row.view)?.model,
  network_ms: (row) => row.view.network_ms,
  wait_ms: (row) => row.view.wait_ms,
  has: (row) => row.view.in_flight + row.view.others,
  prefill: (row) => first(row.view)?.prefill_ms_per_token,
  decode: (row) => first(row.view)?.decode_ms_per_token,
  hot: (row) => row.view.machine.temperature_c,
  power: (row) => row.view.machine.power_w,
};

export class Nodes {
  #rows = new Map();
  #body;
  #filter;
  #sort = { key: "name", down: false };
  #confirm;
  #trouble;
  #late = false; // rows stand wrong, since the focus was on one of them

  /** `confirm(heading, text, yes)` promises whether it is to be done; `trouble(text)` tells what went wrong. */
  constructor(table, filter, { confirm, trouble }) {
    this.#body = table.tBodies[0];
    this.#filter = filter;
    this.#confirm = confirm;
    this.#trouble = trouble;
    filter.addEventListener("input", () => this.#show());
    this.#body.addEventListener("focusout", () => setTimeout(() => this.#late && this.#order()));
    for (const head of table.tHead.querySelectorAll("[data-sort]")) {
      head.querySelector("button").addEventListener("click", () => this.#sortBy(head));
    }
  }

  /** All nodes, whatever was there before. */
  replace(nodes) {
    this.change(nodes, [...this.#rows.keys()].filter((name) => !Object.hasOwn(nodes, name)));
  }

  /** Changed fields of nodes by name, and the names of those that are gone. */
  change(nodes, gone) {
    const before = this.#rows.size;
    for (const name of gone) this.#remove(name);
    let fresh = before !== this.#rows.size;
    for (const [name, fields] of Object.entries(nodes)) {
      let row = this.#rows.get(name);
      if (row === undefined) {
        row = this.#add(name);
        fresh = true;
      }
      Object.assign(row.view, fields);
      this.#render(row);
    }
    if (fresh || (this.#sort.key !== "name" && Object.keys(nodes).length)) this.#order();
    this.#show();
  }

  get all() {
    return [...this.#rows.values()].map((row) => row.view);
  }

  // --- rows ----------------------------------------------------------------------------------------------

  #add(name) {
    const cells = {};
    const row = { name, view: {}, cells, words: "", detail: null, pending: null };
    row.tr = element("tr");
    row.tr.setAttribute("role", "row");
    const cell = (key, className = "", label = "") => {
      const made = element("td", className);
      made.setAttribute("role", "cell");
      if (label) made.dataset.label = label;
      cells[key] = made;
      row.tr.append(made);
      return made;
    };
    row.button = element("button", "name", name);
    row.button.type = "button";
    row.button.title = name;
    row.button.setAttribute("aria-expanded", "false");
    row.button.addEventListener("click", () => this.#toggle(row));
    cell("name", "top").append(row.button);
    row.badge = element("span", "badge");
    cell("standing", "top standing").append(row.badge);
    cell("serves", "serves");
    cell("network", "number", "distance");
    cell("wait", "number", "wait");
    cell("has", "number", "load");
    cell("prefill", "number", "prefill");
    cell("decode", "number", "decode");
    cell("hot", "number", "°C");
    cell("power", "number power", "W");
    row.drain = element("button", "plain drain");
    row.drain.type = "button";
    row.drain.addEventListener("click", () => this.#drain(row));
    cell("action", "top action").append(row.drain);
    this.#rows.set(name, row);
    return row;
  }

  #remove(name) {
    const row = this.#rows.get(name);
    if (row === undefined) return;
    clearTimeout(row.pending);
    row.tr.remove();
    row.detail?.remove();
    this.#rows.delete(name);
  }

  #render(row) {
    const { view, cells } = row;
    const machine = view.machine;
    const bundle = first(view);
    const fails = view.standing === "ready" && view.failing >= 0.1;
    say(row.badge, fails ? `fails ${percent(view.failing)}` : view.standing);
    row.badge.className = `badge ${fails ? "suspect" : view.standing}`;
    row.tr.className = view.standing === "gone" || view.standing === "lost" ? "gone" : "";
    say(cells.serves, bundle === undefined ? NOTHING : servesText(view));
    cells.serves.title = view.bundles.map((one) => `${one.bundle} (${one.runtime})`).join("\n");
    say(cells.network, ms(view.network_ms));
    say(cells.wait, ms(view.wait_ms));
    say(cells.has, `${view.in_flight + view.others}/${view.parallel}`);
    say(cells.prefill, ms(bundle?.prefill_ms_per_token));
    say(cells.decode, ms(bundle?.decode_ms_per_token));
    say(cells.hot, machine.temperature_c === undefined ? NOTHING : `${machine.temperature_c}${machine.throttled ? "▾" : ""}`);
    cells.hot.classList.toggle("hot", machine.throttled === true || machine.temperature_c >= HOT_C);
    cells.hot.title = machine.throttled ? "throttled: the machine slows itself down" : "";
    say(cells.power, machine.power_w === undefined ? NOTHING : machine.power_w.toFixed(1));
    for (const key of ["hot", "power"]) cells[key].classList.toggle("none", cells[key].textContent === NOTHING);
    this.#renderDrain(row);
    row.words = [row.name, row.badge.textContent, ...view.bundles.flatMap((one) => [one.bundle, one.model, one.task, one.runtime])]
      .join(" ")
      .toLowerCase();
    if (row.detail !== null) row.detail.replaceChildren(detailOf(view));
  }

  #renderDrain(row) {
    const { standing } = row.view;
    if (row.pending !== null && standing === row.before) return;
    clearTimeout(row.pending);
    row.pending = null;
    const text = standing === "draining" ? "Undrain" : "Drain";
    row.drain.hidden = standing === "lost" || standing === "gone";
    row.drain.disabled = false;
    say(row.drain, text);
    row.drain.setAttribute("aria-label", `${text} ${row.name}`);
  }

  #toggle(row) {
    const open = row.detail === null;
    row.button.setAttribute("aria-expanded", String(open));
    if (open) {
      const cell = element("td");
      cell.setAttribute("role", "cell");
      cell.append(detailOf(row.view));
      const line = element("tr", "detail", cell);
      line.setAttribute("role", "row");
      row.tr.after(line);
      row.detail = cell;
    } else {
      row.detail.parentElement.remove();
      row.detail = null;
    }
  }

  async #drain(row) {
    const on = row.view.standing !== "draining";
    const has = row.view.in_flight + row.view.others;
    const ends = has ? `It ends the ${has === 1 ? "question" : `${count(has)} questions`} that it has` : "It has no question now";
    const text = on ? `${ends}, and gets no new ones until you take it back.` : "It takes new questions again.";
    if (!(await this.#confirm(`${on ? "Drain" : "Undrain"} ${row.name}?`, text, on ? "Drain" : "Undrain"))) return;
    row.before = row.view.standing;
    row.drain.disabled = true;
    say(row.drain, "told …");
    row.pending = setTimeout(() => {
      row.pending = null;
      this.#renderDrain(row);
      this.#trouble(`Node ${row.name} was told, but is still ${row.view.standing}: is it shutting down?`);
    }, OBEYS_WITHIN_MS);
    const failed = await post(`nodes/${encodeURIComponent(row.name)}/drain`, { on });
    if (failed !== null) {
      clearTimeout(row.pending);
      row.pending = null;
      this.#renderDrain(row);
      this.#trouble(failed);
    }
  }

  // --- which rows, and in which order ---------------------------------------------------------------------

  #sortBy(head) {
    const key = head.dataset.sort;
    this.#sort = { key, down: this.#sort.key === key && !this.#sort.down };
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", this.#sort.down ? "descending" : "ascending");
    this.#order();
  }

  /** Put the rows in order, moving only those that stand wrong; none while the focus is on one of them. */
  #order() {
    const value = KEYS[this.#sort.key];
    const turn = this.#sort.down ? -1 : 1;
    const byName = (a, b) => names.compare(a.name, b.name);
    const compare = (a, b) => {
      if (value === undefined) return turn * byName(a, b);
      const [left, right] = [value(a), value(b)];
      if (left === right) return byName(a, b);
      if (left === undefined || left === null) return 1;
      if (right === undefined || right === null) return -1;
      return turn * (left < right ? -1 : 1);
    };
    this.#late = this.#body.contains(document.activeElement);
    if (this.#late) {
      for (const row of this.#rows.values()) if (!row.tr.isConnected) this.#body.append(row.tr);
      return;
    }
    let place = this.#body.firstElementChild;
    for (const row of [...this.#rows.values()].sort(compare)) {
      if (row.tr === place) {
        place = (row.detail?.parentElement ?? row.tr).nextElementSibling;
      } else {
        this.#body.insertBefore(row.tr, place);
        if (row.detail !== null) row.tr.after(row.detail.parentElement);
      }
    }
  }

  #show() {
    const words = this.#filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of this.#rows.values()) {
      const matches = words.every((word) => row.words.includes(word));
      shown += matches;
      if (row.tr.hidden === matches) row.tr.hidden = !matches;
      if (row.detail !== null) row.detail.parentElement.hidden = !matches;
    }
    const total = this.#rows.size;
    this.#body.closest(".columns").classList.toggle("few", total < FEW);
    say(document.getElementById("nodes-count"), words.length ? `${count(shown)} of ${count(total)}` : count(total));
    const none = document.getElementById("no-nodes");
    none.hidden = shown > 0;
    say(none, total ? "No node matches." : "No node has announced itself yet.");
  }
}

/** What went wrong with a request that changes something, or null. */
export async function post(path, body) {
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    return response.ok ? null : (await response.text()).trim() || `the hub said ${response.status}`;
  } catch {
    return "The hub cannot be reached: nothing was done.";
  }
}

function servesText(view) {
  const bundle = first(view);
  const more = view.bundles.length - 1 + view.more_bundles;
  const building = bundle.progress === null ? "" : `, better one built to ${percent(bundle.progress)}`;
  return `${bundle.model} · ${bundle.runtime}${building}${more ? ` +${more}` : ""}`;
}

function detailOf(view) {
  const { machine } = view;
  const facts = [
    ["heat", machine.temperature_c === undefined ? null : `${machine.temperature_c} °C${machine.throttled ? ", throttled" : ""}`],
    ["power", machine.power_w === undefined ? null : `${machine.power_w.toFixed(1)} W${machine.power_mode ? `, mode ${machine.power_mode}` : ""}`],
    ["processor", machine.cpu === undefined ? null : `${percent(machine.cpu)} busy`],
    ["GPU", machine.gpu === undefined ? null : `${percent(machine.gpu)} busy`],
    ["memory", machine.free_mib === undefined ? null : `${count(machine.free_mib)} MiB free`],
    ["answers", machine.tokens_per_s === undefined ? null : `${machine.tokens_per_s} tokens a second`],
    ["fails", view.failing ? `${percent(view.failing)} of its questions, lately` : null],
    ["questions", `${view.in_flight} of this hub, ${view.others} of others; ${view.parallel} at a time`],
  ];
  const pairs = element("dl", "pairs");
  for (const [key, value] of facts) {
    if (value !== null) pairs.append(element("dt", "", key), element("dd", "", value));
  }
  const bundles = element("ul", "bundles");
  for (const one of view.bundles) {
    const costs = `${ms(one.fixed_ms)} ms + ${ms(one.prefill_ms_per_token)} a prompt token + ${ms(one.decode_ms_per_token)} an answer token`;
    const why = one.why ? ` · ${one.why}` : "";
    bundles.append(element("li", "", element("code", "", one.bundle), ` ${one.task}, ${one.runtime}: ${costs}${why}`));
  }
  if (view.more_bundles) bundles.append(element("li", "quiet", `and ${view.more_bundles} more`));
  return element("div", "", pairs, bundles);
}
