// A model's own measurements, read from its metrics document.

import { number, percent } from "./format.js";

const plain = (digits) => ({ format: (value) => number(value, digits), change: (value) => number(value, digits) });
const share = (digits) => ({
  format: (value) => percent(value, digits),
  change: (value) => `${number(100 * value, digits)} pp`,
});
const micros = { format: (value) => `${number(value)} µs`, change: (value) => `${number(value)} µs` };

/** Name in the document, name for people, how it reads, and whether more is better. */
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
  const perRow = evaluation.latency?.per_row;
  if (perRow)
    rows.push({
      key: "latency_p95",
      name: "Latency p95 per flight",
      value: perRow.p95_us,
      ...micros,
      more: false,
    });
  return rows;
}

/** `[["embedding.factor", 1.6], …]` of a nested document. */
export function flattened(value, prefix = "") {
  if (value === null || typeof value !== "object") return [[prefix, value]];
  if (Array.isArray(value))
    return [[prefix, value.map((item) => (typeof item === "object" ? JSON.stringify(item) : item)).join(", ")]];
  return Object.entries(value).flatMap(([name, inner]) => flattened(inner, prefix ? `${prefix}.${name}` : name));
}
