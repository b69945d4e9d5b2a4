// Values over time: axes with units, a legend, a cursor for mouse and arrow keys,
// the marks of model versions, and the same numbers as a table.

import { h, responsive, s, utc } from "../dom.js";
import { details, grid } from "../parts.js";
import { extent, linear, tickDigits, ticks, timeTicks } from "./scale.js";

const MARGIN = { top: 26, right: 12, bottom: 26 };
const LEAST_LEFT = 52;
/** Width of a digit, so that the longest label has room before the axis. */
const DIGIT = 7;

/**
 * `series` are `{ name, look?, columns?, below?, points: [{ at, value, low?, high? }] }`:
 * `look` the number of its colour and dashes where charts are to agree on it, `columns`
 * how wide its columns are in time where it is drawn as such (`below` their look under
 * zero), times in milliseconds; a point without a value is a gap in the line. `marks`
 * are `{ at, text }`, `shaded` whether every other stretch between them is; `limits`
 * are `{ value, text }`. `x` is `{ name?, text?, ticks?, range? }`.
 */
export function lineChart({
  name,
  axis,
  format,
  series,
  marks = [],
  shaded = false,
  limits = [],
  height = 220,
  zero = false,
  least = 0,
  key,
  x,
}) {
  const moments = [...new Set(series.flatMap((one) => one.points.map((point) => point.at)))].sort((a, b) => a - b);
  if (moments.length === 0) return h("p", { class: "note" }, "No values in this period.");
  const values = series
    .flatMap((one) => one.points.flatMap((point) => [point.value, point.low, point.high]))
    .concat(limits.map((limit) => limit.value));
  const range = extent(
    values.filter((value) => value !== null && value !== undefined),
    { zero, least },
  );
  if (range === null) return h("p", { class: "note" }, "No values in this period.");
  const xText = x?.text ?? ((at) => utc(at));
  const chart = {
    name,
    axis,
    format,
    series,
    marks,
    shaded,
    limits,
    height,
    moments,
    range,
    xText,
    xTicks: x?.ticks ?? timeTicks,
    xName: x?.name ?? "Time (UTC)",
    xRange: x?.range ?? [moments[0], moments.at(-1)],
  };
  return h(
    "figure",
    { class: "chart" },
    series.length > 1 || series.some((one) => one.points.some((point) => Number.isFinite(point.low)))
      ? legend(series)
      : null,
    responsive((width) => drawn(chart, width)),
    details(`table-${key ?? name}`, "As a table", numbers(chart)),
  );
}

/** The names of series, with their colours and dashes. */
export function legend(series) {
  return h(
    "figcaption",
    { class: "legend" },
    series.map((one, index) =>
      h(
        "span",
        { class: "entry" },
        s(
          "svg",
          { class: `series s${one.look ?? index}`, viewBox: "0 0 24 10", "aria-hidden": "true", width: 24, height: 10 },
          s("line", { class: "line", x1: 0, y1: 5, x2: 24, y2: 5 }),
        ),
        one.name,
        one.points?.some((point) => Number.isFinite(point.low)) ? " (band: interval)" : "",
      ),
    ),
  );
}

function drawn(chart, width) {
  const { height, moments, range, series, marks, limits } = chart;
  const [low, high] = chart.xRange;
  const labels = valueLabels(chart);
  const left = Math.max(LEAST_LEFT, ...labels.map(({ text }) => DIGIT * text.length + 10));
  const across = linear(low === high ? [low - 1, high + 1] : [low, high], [left, width - MARGIN.right]);
  const up = linear(range, [height - MARGIN.bottom, MARGIN.top]);
  const inside = marks.filter((mark) => mark.at >= low && mark.at <= high);
  const summary =
    `${chart.name}, ${chart.axis}, ${chart.xText(moments[0])} to ${chart.xText(moments.at(-1))}. ` +
    "Arrow keys read single values; the table below has all.";
  const cursor = s("g", { class: "cursor", visibility: "hidden" });
  const picture = s(
    "svg",
    { class: "lines", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary },
    chart.shaded ? shades(inside, across, { height }) : null,
    axes(chart, labels, { across, up, left, width }),
    versionMarks(inside, across, { left, height, width }),
    limits.map((limit) => limitLine(limit, up, { left, width })),
    series.map((one, index) => seriesOf(one, index, across, up)),
    cursor,
  );
  const tip = h("div", { class: "tip", hidden: true });
  const spoken = h("div", { class: "unseen", role: "status", "aria-live": "polite" });
  const frame = h(
    "div",
    { class: "plot", tabindex: "0", role: "group", "aria-label": `${chart.name}: values` },
    picture,
    tip,
    spoken,
  );
  follow(chart, frame, picture, { cursor, tip, spoken, across, up, width });
  return frame;
}

/** Ticks of the values with their texts. */
function valueLabels({ height, range, format }) {
  const values = ticks(range[0], range[1], Math.max(2, Math.round(height / 55)));
  const digits = tickDigits(values);
  return values.map((value) => ({ value, text: format(value, digits) }));
}

function axes(chart, labels, { across, up, left, width }) {
  const { height } = chart;
  const times = chart.xTicks(across.low, across.high, Math.max(3, Math.floor(width / 110)));
  return s(
    "g",
    { class: "axes" },
    labels.map(({ value, text }) => [
      s("line", { class: "rule", x1: left, x2: width - MARGIN.right, y1: up.at(value), y2: up.at(value) }),
      s("text", { x: left - 7, y: up.at(value), class: "end middle" }, text),
    ]),
    times.map(({ at, text }) => [
      s("line", {
        class: "notch",
        x1: across.at(at),
        x2: across.at(at),
        y1: height - MARGIN.bottom,
        y2: height - MARGIN.bottom + 4,
      }),
      timeLabel(across.at(at), height - 7, width, text),
    ]),
    s("line", {
      class: "base",
      x1: left,
      x2: width - MARGIN.right,
      y1: height - MARGIN.bottom,
      y2: height - MARGIN.bottom,
    }),
    s("text", { class: "unit", x: 2, y: 11 }, chart.axis),
  );
}

/** The text below a notch; at the right edge it ends there. */
function timeLabel(x, y, width, text) {
  const atEdge = x > width - 4 * text.length;
  return s("text", { x: atEdge ? width - 1 : x, y, class: atEdge ? "end" : "centre" }, text);
}

/** Every other stretch between marks, for the eye. */
function shades(marks, across, { height }) {
  return marks.map((mark, index) => {
    const x = across.at(mark.at);
    const width = across.at(marks[index + 1]?.at ?? across.high) - x;
    const y = MARGIN.top - 16;
    return index % 2 === 0
      ? s("rect", { class: "shade", x, width, y, height: height - MARGIN.bottom - y })
      : null;
  });
}

/** A dashed line where another model went live; its number where there is room. */
function versionMarks(marks, across, { left, height, width }) {
  let free = left;
  return marks.map((mark) => {
    const x = across.at(mark.at);
    const label = mark.text.replace("model_", "");
    const room = label.length * 6.4 + 8;
    const named = x >= free && x + room <= width;
    if (named) free = x + room;
    return s(
      "g",
      { class: "mark" },
      s("title", {}, mark.first ? `${mark.text} is live` : `${mark.text} live from ${utc(mark.at)}`),
      mark.first ? null : s("line", { x1: x, x2: x, y1: MARGIN.top - 6, y2: height - MARGIN.bottom }),
      named ? s("text", { x: x + 4, y: MARGIN.top - 2 }, label) : null,
    );
  });
}

function limitLine(limit, up, { left, width }) {
  return s(
    "g",
    { class: "limit" },
    s("line", { x1: left, x2: width - MARGIN.right, y1: up.at(limit.value), y2: up.at(limit.value) }),
    s("text", { x: width - MARGIN.right, y: up.at(limit.value) - 4, class: "end" }, limit.text),
  );
}

function seriesOf(one, index, across, up) {
  if (one.columns) return columnsOf(one, index, across, up);
  const points = one.points.filter((point) => Number.isFinite(point.value));
  const banded = points.filter((point) => Number.isFinite(point.low) && Number.isFinite(point.high));
  const at = (point, value) => `${across.at(point.at).toFixed(1)},${up.at(value).toFixed(1)}`;
  const band =
    banded.length > 1
      ? [
          ...banded.map((point) => at(point, point.high)),
          ...banded.toReversed().map((point) => at(point, point.low)),
        ].join(" ")
      : null;
  return s(
    "g",
    { class: `series s${one.look ?? index}` },
    band ? s("polygon", { class: "band", points: band }) : null,
    stretches(one.points).map((stretch) =>
      s("polyline", { class: "line", points: stretch.map((point) => at(point, point.value)).join(" ") }),
    ),
    points.length <= 40
      ? points.map((point) => s("circle", { class: "dot", cx: across.at(point.at), cy: up.at(point.value), r: 2.6 }))
      : null,
  );
}

/** Points that follow each other; one without a value ends a stretch. */
function stretches(points) {
  const found = [[]];
  for (const point of points) {
    if (Number.isFinite(point.value)) found.at(-1).push(point);
    else found.push([]);
  }
  return found.filter((stretch) => stretch.length > 0);
}

/** A column from zero for each value. */
function columnsOf(one, index, across, up) {
  const width = across.at(across.low + one.columns) - across.at(across.low);
  const zero = up.at(0);
  const look = one.look ?? index;
  return one.points
    .filter((point) => Number.isFinite(point.value))
    .map((point) => {
      const y = up.at(point.value);
      return s(
        "g",
        { class: `series s${point.value < 0 ? (one.below ?? look) : look}` },
        s("rect", {
          class: "column",
          x: across.at(point.at) - width / 2,
          width,
          y: Math.min(y, zero),
          height: Math.abs(y - zero),
        }),
      );
    });
}

/** Moves the cursor to the moment nearest to the pointer, or by arrow keys. */
function follow(chart, frame, picture, { cursor, tip, spoken, across, up, width }) {
  const { moments, series, height } = chart;
  let chosen = -1;
  const show = (index, aloud) => {
    chosen = Math.max(0, Math.min(moments.length - 1, index));
    const at = moments[chosen];
    const x = across.at(at);
    const found = series
      .map((one) => [one, one.points.find((point) => point.at === at)])
      .filter(([, point]) => Number.isFinite(point?.value));
    cursor.replaceChildren(
      s("line", { x1: x, x2: x, y1: MARGIN.top - 6, y2: height - MARGIN.bottom }),
      ...found.map(([one, point]) =>
        s("circle", { class: `series s${one.look ?? series.indexOf(one)}`, cx: x, cy: up.at(point.value), r: 4.5 }),
      ),
    );
    cursor.setAttribute("visibility", "visible");
    const lines = found.map(([one, point]) => `${one.name} ${chart.format(point.value)}${intervalText(chart, point)}`);
    const extra = found.map(([, point]) => point.text).filter(Boolean);
    tip.replaceChildren(
      h("strong", {}, chart.xText(at)),
      ...[...lines, ...new Set(extra)].map((line) => h("span", {}, line)),
    );
    tip.hidden = false;
    const room = Math.min(tip.offsetWidth || 180, width);
    tip.style.setProperty("left", `${Math.max(0, Math.min(width - room, x + (x > width / 2 ? -room - 10 : 10)))}px`);
    if (aloud) spoken.textContent = `${chart.xText(at)}: ${[...lines, ...new Set(extra)].join(", ")}`;
  };
  const hide = () => {
    cursor.setAttribute("visibility", "hidden");
    tip.hidden = true;
  };
  picture.addEventListener("pointermove", (event) => {
    const at = across.invert(event.clientX - picture.getBoundingClientRect().left);
    show(nearest(moments, at), false);
  });
  picture.addEventListener("pointerleave", hide);
  frame.addEventListener("blur", hide);
  frame.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: chosen - 1, ArrowRight: chosen + 1, Home: 0, End: moments.length - 1 };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(chosen < 0 ? moments.length - 1 : moves[event.key], true);
  });
}

function intervalText(chart, point) {
  return Number.isFinite(point.low) ? ` (${chart.format(point.low)} to ${chart.format(point.high)})` : "";
}

function nearest(moments, at) {
  let best = 0;
  moments.forEach((moment, index) => {
    if (Math.abs(moment - at) < Math.abs(moments[best] - at)) best = index;
  });
  return best;
}

function numbers(chart) {
  const names = [chart.xName, ...chart.series.map((one) => one.name)];
  const rows = chart.moments.toReversed().map((at) => [
    chart.xText(at),
    ...chart.series.map((one) => {
      const point = one.points.find((found) => found.at === at);
      return Number.isFinite(point?.value) ? chart.format(point.value) + intervalText(chart, point) : "–";
    }),
  ]);
  return grid(chart.name, names, rows);
}

/** Where a value's model changes: the marks of a chart. */
export function modelMarks(rows) {
  const marks = [];
  let before = null;
  for (const row of rows) {
    if (row.model !== before) marks.push({ at: row.at, text: row.model, first: before === null });
    before = row.model;
  }
  return marks;
}
