// From values to places on the screen, and pictures that fit beside a number.

import { s } from "../dom.js";

/** A linear scale; `at` maps, `invert` maps back. */
export function linear([low, high], [from, to]) {
  const span = high - low || 1;
  return {
    at: (value) => from + ((value - low) / span) * (to - from),
    invert: (place) => low + ((place - from) / (to - from || 1)) * span,
    low,
    high,
  };
}

/** Round values within the scale, about `wanted` of them; never a zero with a minus. */
export function ticks(low, high, wanted) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / Math.max(1, wanted);
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * magnitude).find((size) => size >= rough * 0.999) ?? rough;
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) found.push(n * step + 0);
  return found;
}

/** With how many digits after the point every tick reads as what it is: one for steps of 2.5, none for steps of 25. */
export function tickDigits(values) {
  if (values.length < 2) return 2;
  const tolerated = Math.abs(values[1] - values[0]) / 1000;
  const exact = (digits) => values.every((value) => Math.abs(Number(value.toFixed(digits)) - value) <= tolerated);
  return [0, 1, 2, 3, 4, 5].find(exact) ?? 6;
}

const DAY = 86_400_000;
const MINUTE = 60_000;
const STEPS = [MINUTE, 5 * MINUTE, 15 * MINUTE, DAY / 24, DAY / 8, DAY / 4, DAY / 2, DAY, 2 * DAY, 7 * DAY, 14 * DAY];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Moments in UTC at round places, each with its text: `{ at, text }`. */
export function timeTicks(low, high, wanted) {
  const step = STEPS.find((size) => (high - low) / size <= wanted);
  if (step) {
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high; at += step)
      found.push({ at, text: step < DAY ? clock(at) : day(at) });
    return found;
  }
  const first = new Date(low);
  const months = Math.max(1, Math.ceil((high - low) / (30.4 * DAY) / wanted));
  const found = [];
  for (let n = 1; ; n += months) {
    const at = Date.UTC(first.getUTCFullYear(), first.getUTCMonth() + n, 1);
    if (at > high) return found;
    const date = new Date(at);
    found.push({
      at,
      text: date.getUTCMonth() === 0 ? `${MONTHS[0]} ${date.getUTCFullYear()}` : MONTHS[date.getUTCMonth()],
    });
  }
}

function day(at) {
  const date = new Date(at);
  return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
}

function clock(at) {
  const date = new Date(at);
  const two = (n) => String(n).padStart(2, "0");
  const [hours, minutes] = [date.getUTCHours(), date.getUTCMinutes()];
  return hours === 0 && minutes === 0 ? day(at) : `${two(hours)}:${two(minutes)}`;
}

/** The smallest and largest of finite values, with some air; `null` without any. */
export function extent(values, { zero = false, least = 0 } = {}) {
  const finite = values.filter((value) => Number.isFinite(value));
  if (finite.length === 0) return null;
  let low = Math.min(...finite);
  let high = Math.max(...finite);
  const air = Math.max((high - low) * 0.08, (least - (high - low)) / 2, 1e-9);
  low -= air;
  high += air;
  if (!zero) return [low, high];
  // Zero is an end of the scale, unless there are values on both sides of it.
  return [Math.min(...finite) >= 0 ? 0 : low, Math.max(...finite) <= 0 ? 0 : high];
}

// ----------------------------------------------------------------
// Two values with their intervals on one line, to see whether they overlap.

const WIDTH = 180;
const HEIGHT = 34;

/** `values` are `{ name, value, low?, high? }`, at most two. */
export function intervalPair(values, format) {
  const range = extent(
    values.flatMap((one) => [one.value, one.low, one.high]).filter((value) => value !== null && value !== undefined),
  );
  if (range === null) return "–";
  const across = linear(range, [6, WIDTH - 6]);
  const interval = ({ low, high }) => (Number.isFinite(low) ? ` (${format(low)} to ${format(high)})` : "");
  const text = values.map((one) => `${one.name} ${format(one.value)}${interval(one)}`).join("; ");
  return s(
    "svg",
    {
      class: "intervals",
      width: WIDTH,
      height: HEIGHT,
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": text,
    },
    s("title", {}, text),
    values.map((one, index) => {
      if (!Number.isFinite(one.value)) return null;
      const y = 10 + index * 14;
      return s(
        "g",
        { class: `series s${index}` },
        Number.isFinite(one.low)
          ? s("line", { class: "whisker", x1: across.at(one.low), x2: across.at(one.high), y1: y, y2: y })
          : null,
        index === 0
          ? s("circle", { class: "dot", cx: across.at(one.value), cy: y, r: 4 })
          : s("path", { class: "dot", d: `M${across.at(one.value)} ${y - 5}l5 5l-5 5l-5 -5z` }),
      );
    }),
  );
}

/** A line without axes, for beside a number. */
export function sparkline(values, label) {
  const finite = values.filter(Number.isFinite);
  // A level line says nothing that the number beside it does not.
  if (finite.length < 2 || Math.min(...finite) === Math.max(...finite)) return null;
  const [low, high] = extent(finite);
  const across = linear([0, values.length - 1], [1, 79]);
  const up = linear([low, high], [19, 1]);
  const points = values
    .map((value, index) =>
      Number.isFinite(value) ? `${across.at(index).toFixed(1)},${up.at(value).toFixed(1)}` : null,
    )
    .filter(Boolean);
  return s(
    "svg",
    { class: "spark", viewBox: "0 0 80 20", width: 80, height: 20, role: "img", "aria-label": label },
    s("polyline", { points: points.join(" ") }),
  );
}
