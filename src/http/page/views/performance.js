// How the live model did: on flights that have landed, and as a service.

import { lineChart, modelMarks } from "../charts/line.js";
import { h } from "../dom.js";
import { counted, number, percent, significant, words } from "../format.js";
import { badge, empty, notice, panel } from "../parts.js";
import { table } from "../table.js";
import {
  estimatedSeries,
  looks,
  promisedSeries,
  realisedSeries,
  requestsOf,
  seriesOf,
  span,
} from "../windows.js";

const RANGES = [7, 30, 90, 365];
const USUAL_DAYS = 90;

const plain = (value, digits = 3) => number(value, digits);
const share = (value, digits = 3) => percent(value, Math.max(0, digits - 2));

export const performance = {
  title: () => "Performance",
  lead: "What the live model was worth on flights that have landed, and how the service answered. Dashed lines mark another version going live.",
  kinds: [],
  load: ({ query }, signal) => looks(Number(query.get("days") ?? USUAL_DAYS), signal),
  draw: (seen) => {
    const { days, rows } = seen;
    const choice = h(
      "nav",
      { class: "choice", "aria-label": "How far back" },
      RANGES.map((range) =>
        h(
          "a",
          { href: `#/performance?days=${range}`, "aria-current": range === days ? "true" : null },
          range === 365 ? "1 year" : `${range} days`,
        ),
      ),
    );
    if (rows.length === 0)
      return [
        choice,
        empty(
          `The monitor has nothing of the last ${days} days.`,
          "It looks at the replicas at intervals, once a model is live. Choose a longer time, or wait for the next look.",
        ),
      ];
    const marks = modelMarks(rows);
    const chart = (name, axis, format, series, more = {}) =>
      panel(
        name,
        { note: more.note },
        lineChart({ name, axis, format, marks, series: series.filter((one) => one.points.length > 0), ...more }),
      );
    return [
      choice,
      seen.until ? notice("info", h("p", {}, `Nothing was watched lately; shown are ${span(seen)}.`)) : null,
      h(
        "div",
        { class: "panels" },
        verdict(rows),
        latencies(rows.at(-1)),
        chart(
          "Ranking (ROC-AUC)",
          "ROC-AUC",
          plain,
          [realisedSeries(rows, "auc"), promisedSeries(rows, "auc"), estimatedSeries(rows, "auc")],
          { least: 0.1, note: "1 ranks every delayed flight above every punctual one; 0.5 is chance." },
        ),
        chart(
          "Log-loss skill",
          "Skill",
          plain,
          [
            realisedSeries(rows, "log_loss_skill"),
            promisedSeries(rows, "log_loss_skill"),
            estimatedSeries(rows, "log_loss_skill"),
          ],
          { least: 0.1, note: "Against always telling the average: 1 is perfect, 0 is no better." },
        ),
        chart(
          "Calibration error",
          "Percentage points",
          (value, digits = 3) => number(100 * value, Math.max(0, digits - 2)),
          [realisedSeries(rows, "calibration_error"), promisedSeries(rows, "calibration_error")],
          { zero: true, note: "How far predicted shares are from what happened." },
        ),
        chart(
          "Recall",
          "Share of delayed flights found",
          share,
          [realisedSeries(rows, "recall"), promisedSeries(rows, "recall")],
          { least: 0.1 },
        ),
        chart(
          "Flights judged",
          "Flights",
          (value) => number(value),
          [
            seriesOf(rows, "Flights with outcomes", (row) => row.metrics?.rows),
            seriesOf(rows, "Delayed among them", (row) => row.metrics?.delayed),
          ],
          { zero: true },
        ),
        chart(
          "Mean score",
          "Probability",
          plain,
          [
            seriesOf(rows, "Window", (row) => row.skew?.window_mean),
            seriesOf(rows, "Reference", (row) => row.skew?.reference_mean),
          ],
          { least: 0.05, note: "What it predicts on average, now and where it learnt." },
        ),
        chart(
          "Latency",
          "Milliseconds",
          (value, digits = 2) => number(value, digits),
          [
            seriesOf(rows, "p50", (row) => row.latency?.overall?.p50.ms),
            seriesOf(rows, "p95", (row) => row.latency?.overall?.p95.ms),
            seriesOf(rows, "p99", (row) => row.latency?.overall?.p99.ms),
          ],
          { zero: true },
        ),
        chart(
          "Errors",
          "Share of requests",
          (value, digits = 4) => percent(value, Math.max(0, digits - 2)),
          [
            seriesOf(rows, "Now", (row) => row.errors?.share),
            seriesOf(rows, "Usual", (row) => row.errors?.baseline_share),
          ],
          { zero: true, least: 0.01 },
        ),
        chart(
          "Traffic",
          "Requests in the hours looked at",
          (value) => number(value),
          [seriesOf(rows, "Requests", requestsOf)],
          { zero: true, least: 10 },
        ),
      ),
    ];
  },
};

function verdict(rows) {
  const last = rows.at(-1);
  const changes = table(
    "Realised metrics against what validation promised",
    [
      { name: "Metric", head: true, cell: (change) => words(change.metric) },
      { name: "Promised", number: true, cell: (change) => significant(change.baseline) },
      { name: "Realised", number: true, cell: (change) => significant(change.realised) },
      {
        name: "Interval",
        number: true,
        cell: (change) =>
          change.interval ? `${significant(change.interval.low)} to ${significant(change.interval.high)}` : "–",
      },
      { name: "Loss", number: true, cell: (change) => significant(change.loss) },
      { name: "Tolerated", number: true, cell: (change) => significant(change.tolerated) },
      {
        name: "Judgement",
        cell: judgement,
      },
    ],
    last.changes,
  );
  return panel(
    "Verdict now",
    { wide: true },
    h("p", {}, badge(last.verdict ?? "undecided"), " ", last.reason),
    last.changes.length > 0 ? changes : null,
  );
}

/** Without a tolerated loss a metric is shown, and nobody says whether it is good enough. */
function judgement(change) {
  if (change.tolerated === null) return badge("unjudged", "not judged");
  return change.worse
    ? badge("degraded", `worse on ${counted(change.windows_worse, "day")}`)
    : badge("passed", "holds");
}

/** Which replica is slow: all of them, and each by itself, over this day and the one before. */
function latencies({ latency }) {
  const ms = (quantile) => (quantile ? `${quantile.at_least ? "≥ " : ""}${number(quantile.ms, 2)}` : "–");
  const all = [["all together", latency?.overall ?? null], ...(latency?.replicas ?? [])];
  const rows = table(
    "Latency by replica",
    [
      { name: "Replica", head: true, cell: ([name]) => name },
      { name: "Requests", number: true, cell: ([, own]) => number(own?.requests ?? 0) },
      { name: "p50, ms", number: true, cell: ([, own]) => ms(own?.p50) },
      { name: "p95, ms", number: true, cell: ([, own]) => ms(own?.p95) },
      { name: "p99, ms", number: true, cell: ([, own]) => ms(own?.p99) },
      {
        name: "Judgement",
        cell: ([name]) => (latency?.slow_replicas.includes(name) ? badge("failed", "slower than the others") : ""),
      },
    ],
    all,
  );
  return panel(
    "Latency by replica",
    { wide: true, note: latency?.reason },
    latency?.overall ? rows : empty("No requests.", "Nobody asked on this day or the one before."),
  );
}
