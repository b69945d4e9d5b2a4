// Two values with their intervals on one line, to see whether they overlap.

import { s } from "../dom.js";
import { extent, linear } from "./scale.js";

const WIDTH = 180;
const HEIGHT = 34;

/** `values` are `{ name, value, low?, high? }`, at most two. */
export function intervalPair(values, format) {
  const range = extent(
    values.flatMap((one) => [one.value, one.low, one.high]).filter((value) => value !== null && value !== undefined),
  );
  if (range === null) return "–";
  const across = linear(range, [6, WIDTH - 6]);
  const told = values
    .map(
      (one) =>
        `${one.name} ${format(one.value)}${Number.isFinite(one.low) ? ` (${format(one.low)} to ${format(one.high)})` : ""}`,
    )
    .join("; ");
  return s(
    "svg",
    {
      class: "intervals",
      width: WIDTH,
      height: HEIGHT,
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": told,
    },
    s("title", {}, told),
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
