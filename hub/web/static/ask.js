// The box to ask a question: streams the answer, and shows by which choice it went where it went.

import { decisionPart } from "./questions.js";
import { element, ms, say } from "./text.js";

export class Ask {
  #form;
  #model;
  #known = "";
  #under = null; // what ends the question under way
  #attempt = 0;
  #part = Object.fromEntries(
    ["asked", "answer", "asked-route", "asked-end", "asked-why", "asked-decision", "ask-button"].map((id) => [id, document.getElementById(id)]),
  );

  constructor(form) {
    this.#form = form;
    this.#model = form.elements.model;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#under !== null) this.#under.abort();
      else this.#ask();
    });
    form.elements.question.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        if (this.#under === null) form.requestSubmit();
      }
    });
  }

  /** What can be asked, as the nodes now serve it. */
  offer(views) {
    const served = new Map();
    for (const view of views) {
      if (view.standing === "gone") continue;
      for (const one of view.bundles) served.set(JSON.stringify([one.model, one.task]), `${one.model} (${one.task})`);
    }
    const options = [...served].sort((a, b) => (a[1] < b[1] ? -1 : 1)).slice(0, 100);
    const known = JSON.stringify(options);
    if (known === this.#known) return;
    this.#known = known;
    const chosen = this.#model.value;
    this.#model.replaceChildren(new Option("any", ""), ...options.map(([value, text]) => new Option(text, value)));
    this.#model.value = served.has(chosen) ? chosen : "";
  }

  async #ask() {
    const { question, max_tokens } = this.#form.elements;
    const [model, task] = this.#model.value ? JSON.parse(this.#model.value) : [null, null];
    const body = { question: question.value, model, task, max_tokens: max_tokens.valueAsNumber || null };
    this.#begin();
    try {
      const response = await fetch("ask", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal: this.#under.signal,
      });
      if (!response.ok) this.#fail((await response.text()).trim() || `the hub said ${response.status}`);
      else await this.#read(response.body);
    } catch (error) {
      if (error.name === "AbortError") say(this.#part["asked-end"], "stopped listening; its node goes on");
      else this.#fail("The hub was lost before the answer was whole: ask again.");
    }
    this.#under = null;
    say(this.#part["ask-button"], "Ask");
  }

  async #read(stream) {
    let rest = "";
    let ended = false;
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const line of lines) ended = this.#take(JSON.parse(line)) || ended;
    }
    if (!ended) this.#fail("The hub was lost before the answer was whole: ask again.");
  }

  /** Show a line; whether it was the last. */
  #take(line) {
    if (line.kind === "decision") this.#route(line);
    else if (line.kind === "text") this.#grow(line);
    else if (line.kind === "answer") this.#answer(line);
    else if (line.kind === "failure") this.#fail(`${line.error.code}: ${line.error.message}`, line.timing_ms.total);
    return line.kind === "answer" || line.kind === "failure";
  }

  #begin() {
    this.#under = new AbortController();
    this.#attempt = 0;
    say(this.#part["ask-button"], "Stop");
    say(this.#part["asked-route"], "asked …");
    say(this.#part.answer, "");
    say(this.#part["asked-end"], "");
    this.#part.answer.classList.remove("failed");
    this.#part.asked.hidden = false;
    this.#part["asked-why"].hidden = true;
    this.#part["asked-decision"].replaceChildren();
  }

  #route(decision) {
    const where = decision.chosen === null ? "no node is there for it yet" : `→ ${decision.chosen}`;
    const cause = decision.cause ? ` (${decision.cause})` : "";
    const predicted = decision.predicted_ms === null ? "" : `, predicted ${ms(decision.predicted_ms)} ms`;
    this.#part["asked-route"].replaceChildren(element("b", "", where), `${cause}${predicted}`);
    this.#part["asked-why"].hidden = false;
    this.#part["asked-decision"].append(decisionPart(decision, false));
  }

  #grow(line) {
    if (line.attempt !== this.#attempt) say(this.#part.answer, ""); // another node started over
    this.#attempt = line.attempt;
    this.#part.answer.append(line.text);
  }

  #answer(line) {
    say(this.#part.answer, line.shown);
    const { timing_ms: timing, tokens } = line;
    const stages = ["network", "queue", "prefill", "decode"].map((name) => `${name} ${ms(timing[name])}`);
    const rest = timing.total - timing.network - timing.queue - timing.prefill - timing.decode;
    if (rest >= 0.05) stages.push(`overhead ${ms(rest)}`);
    const told = tokens.completion === 1 ? "1 token" : `${tokens.completion} tokens`;
    const cut = line.finish === "length" ? ", cut at its limit" : "";
    say(this.#part["asked-end"], `${line.node} answered in ${ms(timing.total)} ms (${stages.join(" + ")}), ${told}${cut}`);
  }

  #fail(text, tookMs) {
    say(this.#part.answer, text);
    this.#part.answer.classList.add("failed");
    say(this.#part["asked-end"], tookMs ? `failed after ${ms(tookMs)} ms` : "failed");
    if (this.#part["asked-route"].textContent === "asked …") say(this.#part["asked-route"], "");
  }
}
