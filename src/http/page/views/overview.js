// What an operations team opens at three in the morning: is anything wrong, where is the loop, how is the live model
// doing.

import * as api from "../api.js";
import { loopPicture, progressBar, shareOf, wallOf } from "../charts/diagrams.js";
import { lineChart, modelMarks } from "../charts/line.js";
import { buttons } from "../commands.js";
import { ago, announce, capital, counted, duration, h, number } from "../dom.js";
import { realisedSeries, span } from "../metrics.js";
import { badge, empty, link, linked, notice, panel, table, tone } from "../parts.js";
import { aliased, refusal, state } from "../store.js";
import { reasonText } from "./cycles.js";
import { standingBadges } from "./models.js";
import { daemonPanel, liveModelPanel, measured, statusThatMatters } from "./service.js";

const SHOWN = 5;

async function load(_, signal) {
  const newest = state.status?.cycle?.id;
  const [{ seen, drift }, alerts, cycles, cycle] = await Promise.all([
    measured(signal),
    api.list("alerts", { limit: SHOWN }, signal),
    api.list("cycles", { limit: SHOWN }, signal),
    newest ? api.find(`/cycles/${newest}`, signal) : null,
  ]);
  const deployed = cycle?.cycle.outcome === "deployed" ? await api.find(`/models/${cycle.cycle.model}`, signal) : null;
  return { seen, drift, alerts: alerts.items, cycles: cycles.items, cycle, deployed };
}

function draw(data) {
  const { status, statusError } = state;
  if (!status) return [empty(statusError ? statusError.message : "The daemon's status is not known yet.")];
  return [
    attention(status),
    h(
      "div",
      { class: "panels" },
      loopPanel(data),
      liveModelPanel(data, status),
      h("div", { class: "stack" }, realised(data.seen), cyclesPanel(data.cycles)),
      h("div", { class: "stack" }, alertsPanel(data.alerts), daemonPanel(status)),
    ),
  ];
}

/** Which station is lit, and what is happening there in words. */
function whereabouts(document) {
  const cycle = document?.cycle;
  if (!cycle || cycle.state === "finished") {
    const live = aliased("live");
    if (!live) {
      const missing = state.status?.waits_for ?? [];
      const why = missing.length > 0 ? `: ${missing.join("; ")}` : "";
      return { here: "decide", text: `No cycle is under way, and no model is live${why}.`, step: null };
    }
    return { here: "watch", text: `No cycle is under way. ${live.model} is live and monitored.`, step: null };
  }
  if (cycle.state === "waiting_approval")
    return {
      here: "approve",
      waiting: true,
      text: `${cycle.id} is waiting for approval of ${cycle.model}, which already serves.`,
      step: null,
    };
  const step = document.steps.findLast((one) => one.state === "running") ?? document.steps.at(-1);
  const undoing = cycle.undoing || document.steps.some((one) => one.state === "undone" || one.state === "undo_failed");
  const doing = undoing ? "is being undone" : `is at step ${step?.name ?? "ingest"}`;
  return {
    here: step?.name ?? "ingest",
    text: `${cycle.id} ${doing}${step?.progress ? `: ${step.progress}` : ""}.`,
    step,
  };
}

/** Where the loop was when it was last drawn: a move is announced to those who cannot see it. */
let announcedStation = null;

function loopPanel({ cycle: document, deployed }) {
  const { here, waiting, text, step } = whereabouts(document);
  if (announcedStation !== null && announcedStation !== here) announce(text);
  announcedStation = here;
  const cycle = document?.cycle;
  const open = Boolean(cycle) && cycle.state !== "finished";
  const share = shareOf(step?.progress);
  const reason = cycle
    ? h(
        "p",
        { class: "note" },
        link("cycles", cycle.id),
        open ? " started " : " ended ",
        ago(open ? cycle.started_at : cycle.finished_at),
        open ? "" : [" (", badge(cycle.outcome), ")"],
        `. Reason: ${reasonText(cycle.reason)}.`,
        open ? "" : [" Result: ", linked(cycle.detail.split("\n")[0] || "nothing more was recorded.")],
        deployed ? [" Its model now: ", link("models", deployed.version), " ", standingBadges(deployed)] : "",
      )
    : null;
  // An open breaker can be resumed from without a pause, so both may be possible.
  const automatic = ["pause", "resume"].filter((name) => refusal(name) === null);
  return panel(
    "The loop",
    { wide: true, id: "loop" },
    loopPicture({ steps: document?.steps ?? [], here, waiting, open, label: `The loop. ${text}` }),
    h(
      "div",
      { class: "whereabouts", data: { here } },
      h("p", {}, linked(text)),
      share === null ? null : progressBar(share, step.progress),
      step
        ? h(
            "p",
            { class: "note" },
            `${duration(wallOf(step))} in this step${step.attempt > 1 ? `, attempt ${step.attempt}` : ""}`,
          )
        : null,
      reason,
    ),
    waiting
      ? buttons("approve", "reject", ...automatic)
      : buttons("retrain", ...(open ? ["cancel"] : []), "rollback", ...automatic),
  );
}

function realised(seen) {
  const marks = modelMarks(seen.rows);
  const auc = realisedSeries(seen.rows, "auc");
  const content =
    auc.points.length > 0
      ? lineChart({
          name: "Realised ROC-AUC",
          axis: "ROC-AUC",
          format: (value, digits = 3) => number(value, digits),
          series: [auc],
          marks,
          least: 0.1,
          height: 200,
          key: "overview-auc",
        })
      : empty(
          "No outcomes are known yet.",
          `Realised metrics appear once predicted flights have landed. Period: ${span(seen)}.`,
        );
  return panel(
    "Prediction quality",
    {
      note: `ROC-AUC of the live model on landed flights, ${span(seen)}. Dashed lines: another version went live.`,
      tools: h("a", { href: "#/performance" }, "All metrics"),
    },
    content,
  );
}

function alertsPanel(alerts) {
  const rows = table(
    "Latest alerts",
    [
      {
        name: "Alert",
        head: true,
        cell: ({ alert }) => [badge(alert.severity), " ", h("a", { href: `#/alerts/${alert.id}` }, alert.title)],
      },
      { name: "When", cell: ({ alert }) => ago(alert.at) },
    ],
    alerts,
  );
  return panel(
    "Latest alerts",
    { tools: h("a", { href: "#/alerts" }, "All alerts") },
    alerts.length > 0 ? rows : empty("No alerts.", "Nothing has raised an alert so far."),
  );
}

function cyclesPanel(cycles) {
  const rows = table(
    "Latest cycles",
    [
      { name: "Cycle", head: true, cell: (cycle) => link("cycles", cycle.id) },
      { name: "State", cell: (cycle) => badge(cycle.outcome ?? cycle.state) },
      { name: "Reason", cell: (cycle) => h("span", { class: "clip" }, reasonText(cycle.reason)) },
      { name: "Started", cell: (cycle) => ago(cycle.started_at) },
    ],
    cycles,
  );
  return panel(
    "Latest cycles",
    { tools: h("a", { href: "#/cycles" }, "All cycles") },
    cycles.length > 0 ? rows : empty("No cycle has started yet."),
  );
}

export const overview = {
  title: () => "Overview",
  load,
  draw,
  kinds: ["cycle", "step", "decision", "drift", "alias", "deployment", "alert", "setting", "model"],
  needs: statusThatMatters,
};

// ----------------------------------------------------------------
// What needs attention, most urgent first, as the status says it; and if nothing does, that.

function attention({ attention: findings, serving }) {
  const urgent = findings.filter(({ severity }) => severity !== "info").length;
  return h(
    "div",
    { class: "attention", id: "attention" },
    findings.length === 0
      ? notice(
          "ok",
          h(
            "p",
            {},
            h("strong", {}, "Nothing needs attention. "),
            serving ? [link("models", serving.model), " is being served, and no check has found a problem."] : "",
          ),
        )
      : h(
          "h2",
          { class: urgent > 0 ? "" : "unseen" },
          urgent > 0 ? `${counted(urgent, "thing needs", "things need")} attention` : "For your information",
        ),
    findings.map(({ severity, kind, text, page }) =>
      notice(
        tone(severity),
        h(
          "p",
          { data: { finding: kind } },
          linked(text),
          page ? [" ", h("a", { href: `#/${page}` }, `See ${capital(page)}`)] : null,
        ),
      ),
    ),
  );
}
