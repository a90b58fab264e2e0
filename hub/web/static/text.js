// How figures are written, and how elements are made. Foreign strings become text, never markup.

export const NOTHING = "–";

/** An element of `tag` with a class, and `parts`: texts and elements. */
export function element(tag, className = "", ...parts) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...parts);
  return made;
}

/** Let `node` say `text`; touches the page only where that is something else. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Milliseconds with three digits, or all before the point: 0.042, 7.12, 161, 12,345. */
export function ms(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NOTHING;
  if (value >= 100) return count(Math.round(value));
  if (value >= 10) return value.toFixed(1);
  return value < 0.0005 ? "0" : value >= 1 ? value.toFixed(2) : value.toPrecision(2).slice(0, 5);
}

/** A figure at an axis. */
export function tick(value) {
  return value >= 1000 ? count(value) : String(Number(value.toPrecision(3)));
}

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** What the hub tells, but for characters that would turn around or hide the text beside them. */
export function parsed(json) {
  return JSON.parse(json, (_, value) => (typeof value === "string" ? value.replace(UNSEEN, "\ufffd") : value));
}

const grouped = new Intl.NumberFormat("en");

export function count(value) {
  return grouped.format(value);
}

/** Bytes, short: 999 B, 12.3 kB, 1.5 GB. */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; bytes >= 1000 && at < units.length - 1; at++) bytes /= 1000;
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

export function percent(share) {
  return share > 0 && share < 0.001 ? "<0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

/** The time of day of seconds since the epoch, as it is where the browser is. */
export function timeOf(seconds) {
  return clock.format(seconds * 1000);
}

export function minuteOf(seconds) {
  return minutes.format(seconds * 1000);
}
