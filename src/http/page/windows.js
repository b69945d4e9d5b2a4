// The monitor's looks at the live model, thinned to what a chart can show, and
// what is asked of them.

import * as api from "./api.js";
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

/** A value of each look as a line. `told` is what a point says besides: without it, the model. */
export function seriesOf(rows, name, pick, { look, told = (row) => ({ text: row.model }) } = {}) {
  const points = rows.map((row) => ({ at: row.at, value: pick(row), ...told(row) }));
  return { name, look, points: points.filter((point) => Number.isFinite(point.value)) };
}

/** The realised values of a metric, with their interval where one was told. */
export function realisedSeries(rows, metric) {
  const told = ({ model, intervals }) => ({
    low: intervals[`${metric}_interval`]?.low,
    high: intervals[`${metric}_interval`]?.high,
    text: model,
  });
  const judged = rows.filter((row) => row.metrics);
  return seriesOf(judged, "Realised", (row) => row.metrics[metric], { look: 0, told });
}

/** What the model's own validation promised. */
export function promisedSeries(rows, metric) {
  return seriesOf(rows, "Promised by validation", (row) => row.baseline?.[metric], { look: 1, told: nothing });
}

/** What is expected until outcomes are known, from the scores alone. */
export function estimatedSeries(rows, metric) {
  return seriesOf(rows, "Estimated from scores", (row) => row.estimated?.[metric], { look: 2, told: nothing });
}

const nothing = () => ({});

/** Requests in the hours that errors are judged over. */
export function requestsOf({ errors }) {
  return errors ? errors.current.ok + errors.current.client_errors + errors.current.server_errors : NaN;
}
