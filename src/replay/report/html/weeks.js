// The report's weeks: the loop, the frozen model and the lookup table over time, with
// the models that were live.

import { lineChart } from "../../../http/page/charts/line.js";
import { timeTicks } from "../../../http/page/charts/scale.js";
import { counted, number, percent, utcDay } from "../../../http/page/dom.js";

const DAY = 86_400_000;

const plain = (value, digits = 3) => number(value, digits);
const signed = (value, digits = 3) => `${value > 0 ? "+" : ""}${number(value, digits)}`.replace("-", "−");
const share = (value, digits = 3) => percent(value, Math.max(0, digits - 2));

export function weeks({ over_time: rows, models }) {
  const starts = rows.map((week) => Date.parse(week.week_start));
  const range = [starts[0], starts.at(-1) + 7 * DAY];
  const x = {
    name: "Week of",
    text: (at) => `Week of ${utcDay(at - 3.5 * DAY)}`,
    // Names of months are short: there is room for more of them.
    ticks: (low, high, wanted) => timeTicks(low, high, Math.floor(1.8 * wanted)),
    range,
  };
  const marks = models.map(({ version, live_from: from }, index) => ({
    at: Math.max(Date.parse(from), range[0]),
    text: version,
    first: index === 0,
  }));
  const points = (pick) =>
    rows.map((week, index) => ({
      at: starts[index] + 3.5 * DAY,
      value: pick(week),
      text: `${week.live_model}, ${counted(week.rows, "flight")}`,
    }));
  const chart = (title, caption, settings) => ({
    title,
    caption,
    content: lineChart({ name: title, key: title, marks, shaded: true, x, ...settings }),
  });
  const three = (pick) => [
    { name: "Loop", look: 0, points: points((week) => pick(week.loop)) },
    { name: "Frozen", look: 1, points: points((week) => pick(week.frozen)) },
    { name: "Lookup", look: 2, points: points((week) => pick(week.lookup)) },
  ];
  const gain = ({ loop, frozen }) =>
    loop.roc_auc === null || frozen.roc_auc === null ? null : loop.roc_auc - frozen.roc_auc;
  return [
    chart(
      "ROC-AUC by week",
      "Shaded stretches and dashed lines are the models that were live. Higher is better; 0.5 is guessing.",
      { axis: "ROC-AUC", format: plain, series: three((metrics) => metrics.roc_auc), height: 300 },
    ),
    chart(
      "What the loop gained, by week",
      "ROC-AUC of the loop minus the frozen first model’s: above the line, the loop ranked better.",
      {
        axis: "Gain",
        format: signed,
        series: [{ name: "Gain", columns: 5 * DAY, below: 1, points: points(gain) }],
        zero: true,
      },
    ),
    chart("Log-loss by week", "In nats; lower is better.", {
      axis: "Nats",
      format: plain,
      series: three((metrics) => metrics.log_loss),
    }),
    chart("Calibration error by week", "Expected calibration error over 15 bins; lower is better.", {
      axis: "ECE",
      format: plain,
      series: three((metrics) => metrics.ece),
    }),
    chart("Share of flights delayed, by week", "How hard the world was: arrivals 15 minutes late or more.", {
      axis: "Delayed",
      format: share,
      series: [{ name: "Delayed", look: 3, columns: 5 * DAY, points: points((week) => week.delayed_share) }],
      zero: true,
      height: 160,
    }),
  ];
}
