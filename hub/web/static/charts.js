// The last hour in two charts: where the time goes, and how many questions come. Slots of ten seconds, as the hub sums.

import { element, minuteOf, ms, say, tick } from "./text.js";

const SLOT_S = 10;
const SLOTS = 360;
const LEAST_SLOTS = 60; // shown of a hub that has just started
const [START, ANSWERED, FAILED, P50, P95, STAGES] = [0, 1, 2, 3, 4, 5];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Charts {
  #slots = new Map();
  #stages;
  #delay;
  #flow;
  #times = [];

  constructor(stages) {
    this.#stages = stages;
    const shown = [...stages].reverse(); // drawn from the whole down to the first, each over the one before
    this.#delay = chart("delay-chart", "delay-legend", [
      ...shown.map((name) => ({ name, class: name, fill: name })),
      { name: "95% within", class: "dash", line: "text" },
    ]);
    this.#flow = chart("flow-chart", "flow-legend", [
      { name: "failed", class: "fail", fill: "fail" },
      { name: "answered", class: "network", fill: "network" },
    ]);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const one of [this.#delay, this.#flow]) one.plot.redraw(false, true);
    });
  }

  replace(slots, nowS) {
    this.#slots.clear();
    this.change(slots, nowS);
  }

  change(slots, nowS) {
    for (const slot of slots) this.#slots.set(slot[START], slot);
    const last = Math.floor(nowS / SLOT_S) * SLOT_S;
    for (const start of this.#slots.keys()) if (start <= last - SLOTS * SLOT_S) this.#slots.delete(start);
    if (!slots.length && this.#times.at(-1) === last) return;
    const since = Math.min(...this.#slots.keys(), last - (LEAST_SLOTS - 1) * SLOT_S);
    this.#times = Array.from({ length: (last - since) / SLOT_S + 1 }, (_, place) => since + place * SLOT_S);
    this.#drawDelay();
    this.#drawFlow(last);
  }

  #drawDelay() {
    const rows = this.#times.map((start) => this.#slots.get(start));
    const means = this.#stages.map((_, stage) => rows.map((row) => (row?.[ANSWERED] ? row[STAGES + stage] : null)));
    const p95 = rows.map((row) => row?.[P95] ?? null);
    const sums = []; // of this stage and those before it
    for (const [stage, values] of means.entries()) {
      sums.push(values.map((value, place) => (value ?? 0) + (stage ? sums[stage - 1][place] : 0)));
    }
    this.#delay.show([this.#times, ...sums.reverse(), p95], [...means].reverse().concat([p95]), weighted(rows));
    const said = this.#stages.map((name, stage) => `${name} ${ms(weighted(rows)(means[stage]))} ms`).join(", ");
    this.#delay.describe(`Mean milliseconds of an answer in the last hour: ${said}`);
  }

  #drawFlow(last) {
    // The slot that is not over yet would look like a fall.
    const rows = this.#times.map((start) => (start === last ? undefined : this.#slots.get(start)));
    const failed = rows.map((row) => (row === undefined ? 0 : row[FAILED] / SLOT_S));
    const answered = rows.map((row) => (row === undefined ? 0 : row[ANSWERED] / SLOT_S));
    const both = rows.map((_, place) => answered[place] + failed[place]);
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    this.#flow.show([this.#times, both, answered], [failed, answered], mean);
    this.#flow.describe(`Questions a second in the last hour: ${ms(mean(answered))} answered, ${ms(mean(failed))} failed`);
  }
}

/** The mean over the hour's answers of a value of each slot. */
function weighted(rows) {
  return (values) => {
    let [sum, weight] = [0, 0];
    for (const [place, value] of values.entries()) {
      if (value === null) continue;
      sum += value * rows[place][ANSWERED];
      weight += rows[place][ANSWERED];
    }
    return weight ? sum / weight : null;
  };
}

/** A chart of bars upon each other, and lines, with a legend that tells what is under the pointer. */
function chart(id, legendId, series) {
  const place = document.getElementById(id);
  const legend = document.getElementById(legendId);
  const when = element("li", "", "");
  legend.append(when);
  const figures = series.map((one) => {
    const figure = element("b", "", "–");
    const item = element("li", "", element("span", `mark ${one.class}`), one.name, figure);
    if (one.fill) legend.prepend(item);
    else when.before(item);
    return figure;
  });
  const bars = uPlot.paths.bars({ size: [1, Infinity], align: 1 });
  const axis = (more) => ({
    stroke: () => colour("quiet"),
    grid: { stroke: () => colour("grid"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
    ...more,
  });
  let [values, whole] = [[], () => null];
  const tell = (index) => {
    for (const [row, figure] of figures.entries()) {
      const value = index === null ? whole(values[row] ?? []) : values[row]?.[index];
      say(figure, ms(value));
    }
    say(when, index === null ? "" : `at ${minuteOf(plot.data[0][index])}`);
  };
  const plot = new uPlot(
    {
      width: place.clientWidth,
      height: place.clientHeight,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
      scales: {
        x: { time: true, range: (_, first, last) => [first, last + SLOT_S] }, // a bar stands right of its time
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] },
      },
      axes: [
        axis({ size: 26, gap: 4, space: 70, values: (_, splits) => splits.map(minuteOf) }),
        axis({ size: 48, gap: 6, space: 34, values: (_, splits) => splits.map(tick) }),
      ],
      series: [
        {},
        ...series.map((one) =>
          one.fill
            ? { fill: () => colour(one.fill), width: 0, paths: bars, points: { show: false } }
            : { stroke: () => colour(one.line), width: 1.2, dash: [4, 3], spanGaps: true, points: { show: false } },
        ),
      ],
      hooks: { setCursor: [(self) => tell(self.cursor.left >= 0 ? self.cursor.idx : null)] },
    },
    [[], ...series.map(() => [])],
    place,
  );
  new ResizeObserver(() => {
    if (place.clientWidth) plot.setSize({ width: place.clientWidth, height: place.clientHeight });
  }).observe(place);
  return {
    plot,
    show(data, shownValues, shownWhole) {
      [values, whole] = [shownValues, shownWhole];
      plot.setData(data);
      tell(plot.cursor.left >= 0 ? plot.cursor.idx : null);
    },
    describe(text) {
      place.setAttribute("aria-label", text);
    },
  };
}
