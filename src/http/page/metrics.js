// Measurements: a model's own, and those of the monitor's checks.

import * as api from "./api.js";
import { number, percent, utcDay, words } from "./dom.js";

// ----------------------------------------------------------------
// A model's own measurements, read from its metrics document.

const plain = (digits) => ({ format: (value) => number(value, digits), change: (value) => number(value, digits) });
const share = (digits) => ({
  format: (value) => percent(value, digits),
  change: (value) => `${number(100 * value, digits)} pp`,
});

/**
 * Name in the document, name for people, how it reads, and whether more is better.
 * Latency is left to the gate: it times both models on one machine.
 */
const METRICS = [
  ["roc_auc", "ROC-AUC", plain(4), true],
  ["pr_auc", "PR-AUC", plain(4), true],
  ["log_loss", "Log-loss", plain(4), false],
  ["brier", "Brier score", plain(4), false],
  ["expected_calibration_error", "Calibration error", share(2), false],
  ["accuracy", "Accuracy", share(1), true],
  ["recall", "Recall", share(1), true],
  ["precision", "Precision", share(1), true],
  ["f1", "F1", plain(4), true],
  ["threshold", "Threshold", plain(3), null],
];

/** The evaluation in a model's (or a run's) metrics, whatever it is nested in; `null` without one. */
export function evaluationOf({ metrics }) {
  if (metrics?.evaluation?.model) return metrics.evaluation;
  if (metrics?.validation) return { model: metrics.validation, intervals: {} };
  return null;
}

/** Metrics with their intervals: `{ key, name, value, low, high, format, change, more }`. */
export function metricRows(model) {
  const evaluation = evaluationOf(model);
  if (!evaluation) return [];
  const rows = METRICS.filter(([key]) => Number.isFinite(evaluation.model[key])).map(([key, name, reads, more]) => {
    const interval = evaluation.intervals?.[key];
    return { key, name, ...reads, more, value: evaluation.model[key], low: interval?.low, high: interval?.high };
  });
  return rows;
}

/** What a baseline (`lookup`, `majority`) reaches on the same rows in a row of `metricRows`. */
export function baselineOf(model, name, row) {
  const value = evaluationOf(model)?.[name]?.[row.key];
  return Number.isFinite(value) ? row.format(value) : "–";
}

/** `"missing_weather"` or `{ noise: 0.3 }` in words. */
export function perturbationText(perturbation) {
  if (perturbation === "none") return "as they were";
  if (typeof perturbation === "string") return words(perturbation);
  const [name, size] = Object.entries(perturbation ?? {})[0] ?? ["?", ""];
  return `${words(name)} by ${size} standard deviations`;
}

/** `[["embedding.factor", 1.6], …]` of a nested document. */
export function flattened(value, prefix = "") {
  if (value === null || typeof value !== "object") return [[prefix, value]];
  if (Array.isArray(value))
    return [[prefix, value.map((item) => (typeof item === "object" ? JSON.stringify(item) : item)).join(", ")]];
  return Object.entries(value).flatMap(([name, inner]) => flattened(inner, prefix ? `${prefix}.${name}` : name));
}

// ----------------------------------------------------------------
// The monitor's checks of the live model, thinned to what a chart can show, and what is read from them.

/** No screen shows more checks than this. */
const POINTS = 160;

/**
 * Checks of the last days, oldest first. Where there are none (after a replay of a recorded year, or a long stop),
 * those of as many days before the last report.
 */
export async function checks(days, signal) {
  const recent = await api.get(`/monitoring?days=${days}&points=${POINTS}`, signal);
  if (recent.length > 0) return { days, until: null, rows: recent.map(flat) };
  const { items } = await api.list("drift/features", { limit: 1 }, signal);
  if (items.length === 0) return { days, until: null, rows: [] };
  const until = new Date(Date.parse(items[0].at) + 1000).toISOString();
  const before = await api.get(`/monitoring?days=${days}&points=${POINTS}&until=${until}`, signal);
  return { days, until: items[0].at, rows: before.map(flat) };
}

/** `the last 30 days`, or which 30 days. */
export function span({ days, until }) {
  return until ? `the ${days} days up to ${utcDay(until)}` : `the last ${days} days`;
}

/** One check with what charts ask for, flattened. */
function flat({ at, model, body }) {
  const { performance, service, replicas, train_serve } = body;
  const realised = performance?.realised;
  return {
    at: Date.parse(at),
    model,
    verdict: performance?.status ?? null,
    reason: performance?.reason ?? "",
    metrics: realised?.metrics ?? null,
    intervals: realised,
    estimated: performance?.estimated ?? null,
    baseline: withSkill(performance?.baseline),
    changes: performance?.changes ?? [],
    latency: service?.latency ?? null,
    errors: service?.errors ?? null,
    traffic: service?.traffic ?? [],
    skew: service?.skew ?? null,
    replicas: replicas ?? null,
    trainServe: train_serve ?? null,
  };
}

/** As the daemon computes it: log-loss against always predicting the share of delays. */
function withSkill(baseline) {
  if (!baseline) return null;
  const delayed = Math.min(1 - 1e-6, Math.max(1e-6, baseline.delayed_share));
  const average = delayed * Math.log(delayed) + (1 - delayed) * Math.log(1 - delayed);
  return { ...baseline, log_loss_skill: 1 + baseline.log_loss / average };
}

/** A value of each check as a line. `besides` is what else a point says: by default its model. */
export function seriesOf(rows, name, pick, { look, besides = (row) => ({ text: row.model }) } = {}) {
  const points = rows.map((row) => ({ at: row.at, value: pick(row), ...besides(row) }));
  return { name, look, points: points.filter((point) => Number.isFinite(point.value)) };
}

/** The realised values of a metric, with their interval where there is one. */
export function realisedSeries(rows, metric) {
  const besides = ({ model, intervals }) => ({
    low: intervals[`${metric}_interval`]?.low,
    high: intervals[`${metric}_interval`]?.high,
    text: model,
  });
  const judged = rows.filter((row) => row.metrics);
  return seriesOf(judged, "Realised", (row) => row.metrics[metric], { look: 0, besides });
}

/** What the model reached in its own validation. */
export function validationSeries(rows, metric) {
  return seriesOf(rows, "Validation baseline", (row) => row.baseline?.[metric], { look: 1, besides: nothing });
}

/** What is expected until outcomes are known, from the scores alone. */
export function estimatedSeries(rows, metric) {
  return seriesOf(rows, "Estimated from scores", (row) => row.estimated?.[metric], { look: 2, besides: nothing });
}

const nothing = () => ({});

/** Requests in the hours over which errors are judged. */
export function requestsOf({ errors }) {
  return errors ? errors.current.ok + errors.current.client_errors + errors.current.server_errors : NaN;
}
