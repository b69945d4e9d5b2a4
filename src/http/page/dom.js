// Elements without markup in strings, and numbers and times as people read them.

// ----------------------------------------------------------------
// Elements without markup in strings: text only ever becomes a text node.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name === "style") {
      // Through the object model: the page's policy forbids style attributes.
      for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    } else if (name === "data") {
      for (const [key, text] of Object.entries(value)) element.dataset[key] = text;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** An HTML element: `h("p", { class: "note" }, "text", otherElement)`. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Says to screen readers what others see happen. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  // Emptied first, so that the same text is read again.
  requestAnimationFrame(() => (announcer.textContent = text));
}

let minted = 0;
/** An id that nothing else on the page has. */
export function mint(prefix) {
  minted += 1;
  return `${prefix}-${minted}`;
}

const MOUNTED = "delayd:mounted";

/** Draws again whenever the space changes: `draw(width)` returns a node. */
export function responsive(draw, className = "") {
  const frame = h("div", { class: `frame ${className}` });
  let drawn = 0;
  const fit = (width) => {
    if (width <= 0 || width === drawn) return;
    drawn = width;
    frame.replaceChildren(draw(width));
  };
  const observer = new ResizeObserver(() => {
    if (!frame.isConnected) observer.disconnect();
    // Later: a new height within the observer's turn would be an error of its own.
    else requestAnimationFrame(() => fit(Math.floor(frame.clientWidth)));
  });
  observer.observe(frame);
  frame.addEventListener(MOUNTED, () => fit(Math.floor(frame.clientWidth)));
  return frame;
}

/** Draws what was just added to the page at once, so that nothing flickers. */
export function mounted(root) {
  root.querySelectorAll(".frame").forEach((frame) => frame.dispatchEvent(new Event(MOUNTED)));
}

// ----------------------------------------------------------------
// Numbers with their units, times in UTC with the local one on hover.

const NONE = "–";

/** What the daemon's clock shows; a replay's clock is not this machine's. */
let clockAhead = 0;
export function setClock(now) {
  const then = Date.parse(now);
  if (Number.isFinite(then)) clockAhead = then - Date.now();
}
export function daemonNow() {
  return Date.now() + clockAhead;
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(Number(value))) return NONE;
  // A small negative number that rounds to nothing is 0, not -0.
  return (Number(Number(value).toFixed(digits)) || 0).toLocaleString("en-GB", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** Digits that fit the size: 0.00123, 0.734, 12.3, 1,234. */
export function significant(value) {
  if (value === null || value === undefined || !Number.isFinite(Number(value))) return NONE;
  const size = Math.abs(Number(value));
  if (size === 0) return "0";
  if (Number.isInteger(Number(value)) && size < 1e15) return number(value);
  if (size < 1e-4) return Number(value).toExponential(1);
  return number(value, size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 3 : 4);
}

export function percent(share, digits = 1) {
  if (share === null || share === undefined || !Number.isFinite(Number(share))) return NONE;
  return `${number(100 * share, digits)} %`;
}

export function bytes(count) {
  if (count === null || count === undefined) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = Number(count);
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${number(size, unit === 0 || size >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** A length of time from milliseconds: `812 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return NONE;
  const seconds = ms / 1000;
  if (seconds < 1) return `${Math.round(ms)} ms`;
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  const two = (large, largeUnit, small, smallUnit) =>
    small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return two(minutes, "min", Math.floor(seconds % 60), "s");
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return two(hours, "h", minutes % 60, "min");
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

const pad = (n) => String(n).padStart(2, "0");

export function utcDay(value) {
  const at = new Date(value);
  return `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`;
}

export function utc(value, seconds = false) {
  const at = new Date(value);
  if (Number.isNaN(at.getTime())) return NONE;
  const clock = `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}${seconds ? `:${pad(at.getUTCSeconds())}` : ""}`;
  return `${utcDay(at)} ${clock} UTC`;
}

function local(value) {
  return `${new Date(value).toLocaleString("en-GB", { dateStyle: "full", timeStyle: "long" })} (your time)`;
}

/** A moment: UTC in the text, the local time on hover. */
export function time(value, { seconds = false, day = false } = {}) {
  if (!value) return h("span", { class: "none" }, NONE);
  return h("time", { datetime: value, title: local(value) }, day ? utcDay(value) : utc(value, seconds));
}

/** How long ago by the daemon's clock, the moment itself on hover. */
export function ago(value) {
  if (!value) return h("span", { class: "none" }, NONE);
  const ms = daemonNow() - Date.parse(value);
  const rough = Math.abs(ms) < 45_000 ? "just now" : ms > 0 ? `${roughly(ms)} ago` : `in ${roughly(-ms)}`;
  return h("time", { datetime: value, title: `${utc(value, true)} · ${local(value)}` }, rough);
}

export function utcClock(value) {
  const at = new Date(value);
  return `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
}

/** One unit, where precision does not matter: `4 min`, `3 h`, `12 d`. */
function roughly(ms) {
  const minutes = Math.round(ms / 60_000);
  if (minutes < 60) return `${Math.max(1, minutes)} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} d`;
}

export const words = (name) => String(name ?? NONE).replaceAll("_", " ");

export function capital(text) {
  const plain = String(text ?? "");
  return plain.charAt(0).toUpperCase() + plain.slice(1);
}

/** `sha256:0123456789ab…` as its first twelve digits, all of it on hover. */
export function digest(value) {
  if (!value) return h("span", { class: "none" }, NONE);
  return h("code", { title: value }, shortDigest(value));
}

export function shortDigest(value) {
  return String(value)
    .replace(/^.*sha256:/, "")
    .slice(0, 12);
}

/** `1 model`, `2 models`. */
export function counted(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}
