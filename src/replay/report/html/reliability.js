// Whether "30 %" means thirty in a hundred: observed share against score, and how
// many flights there are of each score.

import { legend } from "../../../http/page/charts/line.js";
import { linear } from "../../../http/page/charts/scale.js";
import { h, number, percent, responsive, s } from "../../../http/page/dom.js";
import { grid } from "../../../http/page/parts.js";

/** From how many flights on a bin's share is more than noise, and joins the line. */
const LEAST_ROWS = 20;
const MOST_WIDTH_PX = 500;
const MARGIN = { top: 22, right: 20, left: 44 };
/** Height of the columns that count flights. */
const COUNTS = 54;
const SHARES = [0, 0.2, 0.4, 0.6, 0.8, 1];

export function reliability(report) {
  const curves = [
    { name: "Frozen", look: 1, bins: report.reliability.frozen, ece: report.frozen.ece },
    { name: "Loop", look: 0, bins: report.reliability.loop, ece: report.loop.ece },
  ];
  return [
    {
      title: "Score against what happened",
      caption:
        "Flights in 15 bins by their score; on the dashed diagonal a score means what it says. Dots grow with the flights in the bin, and the line leaves out bins with fewer than 20; the columns below count the loop’s.",
      content: h(
        "div",
        { class: "beside" },
        h(
          "figure",
          { class: "chart" },
          legend(curves),
          responsive((width) => diagram(curves, Math.min(width, MOST_WIDTH_PX))),
        ),
        numbers(curves),
      ),
    },
  ];
}

function diagram(curves, width) {
  const side = width - MARGIN.left - MARGIN.right;
  const [left, right, floor] = [MARGIN.left, MARGIN.left + side, MARGIN.top + side];
  const base = floor + COUNTS + 8;
  const height = base + 44;
  const across = linear([0, 1], [left, right]);
  const up = linear([0, 1], [floor, MARGIN.top]);
  const live = curves[1].bins;
  const most = Math.max(1, ...live.map((bin) => bin.rows));
  const slot = side / live.length;
  const told = curves.map(({ name, ece }) => `${name} ${number(ece, 3)}`).join(", ");
  return s(
    "svg",
    {
      class: "reliability",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `Reliability diagram. Expected calibration error: ${told}. The table has the numbers`,
    },
    SHARES.map((share) => [
      s("line", { class: "rule", x1: left, x2: right, y1: up.at(share), y2: up.at(share) }),
      s("text", { class: "end middle", x: left - 6, y: up.at(share) }, percent(share, 0)),
      s("text", { class: "centre", x: across.at(share), y: base + 18 }, percent(share, 0)),
    ]),
    s("text", { class: "unit", x: 2, y: 11 }, "Delayed"),
    s("text", { class: "centre", x: (left + right) / 2, y: height - 6 }, "Score"),
    s("line", { class: "diagonal", x1: left, y1: floor, x2: right, y2: MARGIN.top }),
    curves.map((curve) => curveOf(curve, { across, up, most })),
    live.map(({ rows }, index) => {
      const tall = (COUNTS * rows) / most;
      return s(
        "rect",
        { class: "count", x: left + slot * index + 1, width: slot - 2, y: base - tall, height: tall },
        s("title", {}, `${number(rows)} flights`),
      );
    }),
    s("line", { class: "base", x1: left, x2: right, y1: base, y2: base }),
  );
}

function curveOf({ name, look, bins }, { across, up, most }) {
  const filled = bins.filter((bin) => bin.rows > 0);
  const joined = filled.filter((bin) => bin.rows >= LEAST_ROWS);
  const at = (bin) => [across.at(bin.mean_score).toFixed(1), up.at(bin.observed_share).toFixed(1)];
  return s(
    "g",
    { class: `series s${look}` },
    s("polyline", { class: "line", points: joined.map((bin) => at(bin).join(",")).join(" ") }),
    filled.map((bin) => {
      const [cx, cy] = at(bin);
      const text = `${name}: score ${percent(bin.mean_score)}, delayed ${percent(bin.observed_share)}, ${number(bin.rows)} flights`;
      return s("circle", { class: "dot", cx, cy, r: 2 + 4 * Math.sqrt(bin.rows / most) }, s("title", {}, text));
    }),
  );
}

function numbers([frozen, loop]) {
  const hundredths = (share) => number(share === null ? NaN : 100 * share, 1);
  const edge = (index) => Math.round((100 * index) / loop.bins.length);
  const three = (bin) => [hundredths(bin.mean_score), hundredths(bin.observed_share), number(bin.rows)];
  return grid(
    "Reliability by bin of the score",
    ["Score, %", "Loop: mean, %", "Delayed, %", "Flights", "Frozen: mean, %", "Delayed, %", "Flights"],
    loop.bins.map((bin, index) => [
      `${edge(index)}–${edge(index + 1)}`,
      ...three(bin),
      ...three(frozen.bins[index]),
    ]),
  );
}
