// What needs attention, most urgent first, as the status says it; and if nothing does, that.

import { h } from "../dom.js";
import { capital, counted } from "../format.js";
import { link, linked, notice, tone } from "../parts.js";

export function attention({ attention: findings, serving }) {
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
