// A model's own measurements, read from its metrics document.

import { number, percent, words } from "./format.js";

const plain = (digits) => ({ format: (value) => number(value, digits), change: (value) => number(value, digits) });
const share = (digits) => ({
  format: (value) => percent(value, digits),
  change: (value) => `${number(100 * value, digits)} pp`,
});

/**
 * Name in the document, name for people, how it reads, and whether more is better.
 * Latency is the gate's to tell: it times both models on one machine.
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
