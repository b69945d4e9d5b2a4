// The monitor's looks at the live model, thinned to what a chart can show, and
// what is asked of them.

import * as api from "./api.js";
import { modelMarks } from "./charts/line.js";
import { utcDay } from "./format.js";

/** More looks than this are not told apart on any screen. */
const POINTS = 160;

/**
 * Looks of the last days, oldest first. Where there are none (after a replay of a
 * recorded year, or a long rest), those of as many days before the last report.
 */
export async function looks(days, signal) {
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

/** One look with what charts ask for, without its depth. */
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

/** As the daemon has it: log-loss against always telling the share of delays. */
function withSkill(baseline) {
  if (!baseline) return null;
  const delayed = Math.min(1 - 1e-6, Math.max(1e-6, baseline.delayed_share));
  const average = delayed * Math.log(delayed) + (1 - delayed) * Math.log(1 - delayed);
  return { ...baseline, log_loss_skill: 1 + baseline.log_loss / average };
}

/** The realised values of a metric, with their interval where one was told. */
export function realisedSeries(rows, metric) {
  return {
    name: "Realised",
    look: 0,
    points: rows
      .filter((row) => Number.isFinite(row.metrics?.[metric]))
      .map((row) => ({
        at: row.at,
        value: row.metrics[metric],
        low: row.intervals[`${metric}_interval`]?.low,
        high: row.intervals[`${metric}_interval`]?.high,
        text: row.model,
      })),
  };
}

/** What the model's own validation promised. */
export function promisedSeries(rows, metric) {
  return {
    name: "Promised by validation",
    look: 1,
    points: rows
      .filter((row) => Number.isFinite(row.baseline?.[metric]))
      .map((row) => ({ at: row.at, value: row.baseline[metric] })),
  };
}

/** What is expected until outcomes are known, from the scores alone. */
export function estimatedSeries(rows, metric) {
  return {
    name: "Estimated from scores",
    look: 2,
    points: rows
      .filter((row) => Number.isFinite(row.estimated?.[metric]))
      .map((row) => ({ at: row.at, value: row.estimated[metric] })),
  };
}

export function seriesOf(rows, name, pick) {
  return {
    name,
    points: rows
      .map((row) => ({ at: row.at, value: pick(row), text: row.model }))
      .filter((point) => Number.isFinite(point.value)),
  };
}

export const marksOf = (rows) => modelMarks(rows);

/** Requests in the hours that errors are judged over. */
export function requestsOf({ errors }) {
  return errors ? errors.current.ok + errors.current.client_errors + errors.current.server_errors : NaN;
}
