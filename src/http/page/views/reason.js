// Why a cycle was begun, in words.

import { sayable } from "../parts.js";

/** `{ kind: "drift", report, summary }` as `drift (…)`. */
export function reasonText(reason) {
  switch (reason?.kind) {
    case "bootstrap":
      return "no model was live";
    case "manual":
      return `${reason.by} asked for it${reason.why ? `: ${reason.why}` : ""}`;
    case "scheduled":
      return "the schedule";
    case "drift":
    case "performance":
      return `${reason.kind}: ${sayable(reason.summary)}`;
    default:
      return "an unknown reason";
  }
}
