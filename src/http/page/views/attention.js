// What needs somebody now, most pressing first; and if nothing does, that.

import { h } from "../dom.js";
import { ago, counted } from "../format.js";
import { link, linked, notice } from "../parts.js";
import { aliased, pause } from "../store.js";

/** Every finding as `[tone, content]`. */
export function findings({ status, seen, drift, alerts, cycles }) {
  const found = [];
  const tell = (wrong, tone, ...content) => wrong && found.push([tone, content]);
  const last = seen.rows.at(-1);
  const live = aliased("live");
  const cycle = status.cycle;
  const ill = status.actors.filter((actor) => actor.state === "dead" || actor.state === "hung");
  tell(
    ill.length > 0,
    "bad",
    `${ill.map((actor) => actor.name).join(", ")} ${ill.length === 1 ? "has" : "have"} stopped working; the daemon is to be restarted.`,
  );
  tell(
    cycle?.outcome === "stuck",
    "bad",
    link("cycles", cycle?.id),
    " is stuck: an undo could not finish. ",
    linked(cycle?.detail),
  );
  const coming = cycle && cycle.state !== "finished";
  tell(
    !live,
    coming ? "info" : "bad",
    coming
      ? "No model is live yet; the first one is on its way."
      : `No model is live${status.waits_for?.length > 0 ? `: ${status.waits_for.join("; ")}` : ""}.`,
  );
  tell(status.replicas_unknown, "bad", `The cluster does not tell its replicas: ${status.replicas_unknown}`);
  const ready = status.replicas.filter((replica) => replica.state === "ready").length;
  tell(
    live && ready === 0 && !status.replicas_unknown,
    "bad",
    `No replica of ${live?.model} is ready: nobody is answered.`,
  );
  const serving = status.live_service;
  tell(serving && !serving.served, "bad", linked(serving?.text));
  const away = status.replicas.filter((replica) => replica.state === "failed");
  tell(
    away.length > 0,
    "bad",
    `${counted(away.length, "replica")} failed: ${away.map((replica) => `${replica.name}${replica.reason ? ` (${replica.reason})` : ""}`).join(", ")}.`,
  );
  tell(
    cycle?.state === "waiting_approval",
    "warn",
    link("cycles", cycle?.id),
    " waits for your word on ",
    link("models", cycle?.model),
    ", which serves already: approve or reject it below.",
  );
  tell(last?.errors?.spike, "bad", `The service fails more often than it did: ${last?.errors?.reason}`);
  tell(last?.latency?.too_slow, "bad", `The service is slow: ${last?.latency?.reason}`);
  const slow = last?.latency?.slow_replicas ?? [];
  tell(slow.length > 0, "warn", `${slow.join(", ")} ${slow.length > 1 ? "answer" : "answers"} slower than the others.`);
  tell(
    last?.trainServe?.report.skewed && last.model === live?.model,
    "bad",
    `${live?.model} is served otherwise than it was trained: ${last?.trainServe?.report.reason}`,
  );
  const hour = last?.traffic?.at(-1);
  tell(hour?.anomalous, "warn", `Traffic is not what it is at this hour of the week: ${hour?.reason}`);
  tell(
    last?.skew?.skewed && last.model === live?.model,
    "warn",
    `Scores are distributed unlike the reference: ${last?.skew?.reason}`,
  );
  tell(last?.replicas?.silent.length > 0, "warn", `The monitor could not read ${last?.replicas?.silent.join("; ")}.`);
  tell(
    last?.replicas?.predictions_lost > 0,
    "warn",
    `${counted(last?.replicas?.predictions_lost, "prediction")} were lost before the monitor fetched them: realised performance lacks them.`,
  );
  tell(
    last?.verdict === "degraded" && last.model === live?.model,
    "warn",
    h("a", { href: "#/performance" }, "Performance"),
    ` has fallen: ${last?.reason}`,
  );
  tell(
    drift?.report.status === "drifted" && drift.model === live?.model,
    "warn",
    link("drift", drift?.id, "Drift"),
    ": ",
    drift?.report.reason ?? "",
  );
  tell(
    cycles[0]?.outcome === "failed" || cycles[0]?.outcome === "rolled_back",
    "warn",
    "The last cycle, ",
    link("cycles", cycles[0]?.id),
    `, ${cycles[0]?.outcome === "failed" ? "failed" : "was rolled back"}: `,
    linked(cycles[0]?.detail),
  );
  const undelivered = alerts.filter((alert) => alert.state === "dead").length;
  tell(
    undelivered > 0,
    "warn",
    counted(undelivered, "alert"),
    " could not be delivered; ",
    h("a", { href: "#/alerts" }, "see to whom"),
    ".",
  );
  const paused = pause();
  tell(
    paused,
    "warn",
    `Automatic cycles are paused by ${paused?.by}${paused?.reason ? `: ${paused.reason}` : ""} `,
    paused?.at ? ["(", ago(paused.at), ")"] : "",
    ".",
  );
  return found;
}

export function attention(data) {
  const found = findings(data);
  const urgent = found.filter(([tone]) => tone !== "info").length;
  const live = aliased("live");
  if (found.length === 0) {
    return h(
      "div",
      { class: "attention", id: "attention" },
      notice(
        "ok",
        h(
          "p",
          {},
          h("strong", {}, "Nothing needs you. "),
          live ? [link("models", live.model), " serves, and no check finds fault with it."] : "",
        ),
      ),
    );
  }
  return h(
    "div",
    { class: "attention", id: "attention" },
    h(
      "h2",
      { class: urgent > 0 ? "" : "unseen" },
      urgent > 0 ? `${counted(urgent, "thing needs", "things need")} a look` : "Good to know",
    ),
    found.map(([tone, content]) => notice(tone, h("p", {}, content))),
  );
}
