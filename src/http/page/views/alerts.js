// Alerts with their deliveries, silences, and the audit.

import * as api from "../api.js";
import { button, endSilence, forbidden, retryAlert, signInLink, silence } from "../commands.js";
import { ago, daemonNow, h, number, time, words } from "../dom.js";
import { badge, empty, facts, linked, notice, pager, panel, table } from "../parts.js";
import { state } from "../store.js";

const LIMIT = 50;
const needs = () => state.session?.role ?? null;

/** Draws the view again at once, without waiting for the event that the command causes. */
const thenAgain = (command) => async () => (await command()) && dispatchEvent(new Event("delayd:session"));

/** How delivery stands: a `dead` one was given up. */
const deliveryBadge = (state) => badge(state, state === "dead" ? "given up" : undefined);

export const alertList = {
  title: () => "Alerts",
  lead: "What was worth an alert, whom it reached, and what is silenced.",
  kinds: ["alert", "silence"],
  needs,
  load: async ({ query }, signal) => {
    const offset = Number(query.get("from") ?? 0);
    const [alerts, silences] = await Promise.all([
      api.list("alerts", { limit: LIMIT, offset }, signal),
      api.list("silences", { limit: LIMIT }, signal),
    ]);
    return { alerts: alerts.items, next: alerts.next_offset, silences: silences.items };
  },
  draw: ({ alerts, next, silences }, { query }) => {
    const refused = forbidden();
    const dead = alerts.some((alert) => alert.state === "dead");
    return [
      h(
        "div",
        { class: "panels" },
        panel(
          "Alerts",
          {
            wide: true,
            tools: h(
              "span",
              { class: "row" },
              dead
                ? button("Retry those given up", {
                    reason: refused,
                    name: "retry-all",
                    press: thenAgain(() => retryAlert("all")),
                  })
                : null,
              button("Silence …", { reason: refused, name: "silence", press: thenAgain(() => silence()) }),
            ),
          },
          refused && state.session ? h("p", { class: "note refused" }, `${refused} `, signInLink()) : null,
          alerts.length === 0 ? empty("No alerts.", "Nothing has raised an alert so far.") : alertTable(alerts),
          pager("alerts", Number(query.get("from") ?? 0), LIMIT, next),
        ),
        silencePanel(silences, refused),
      ),
    ];
  },
};

function alertTable(alerts) {
  return table(
    "Alerts, newest first",
    [
      { name: "Severity", cell: ({ alert }) => badge(alert.severity) },
      { name: "Alert", head: true, cell: ({ alert }) => h("a", { href: `#/alerts/${alert.id}` }, alert.title) },
      { name: "Key", cell: ({ alert }) => h("code", {}, alert.dedup_key) },
      { name: "Delivery", cell: (one) => deliveryBadge(one.state) },
      { name: "When", cell: ({ alert }) => time(alert.at) },
    ],
    alerts,
    { key: ({ alert }) => alert.id },
  );
}

const active = (one) => !one.ended_at && Date.parse(one.until) > daemonNow();

function silencePanel(silences, refused) {
  return panel(
    "Silences",
    { wide: true },
    silences.length === 0
      ? empty("Nothing is silenced.")
      : table(
          "Silences, newest first",
          [
            { name: "Silence", head: true, cell: (one) => one.id },
            { name: "State", cell: (one) => (active(one) ? badge("silenced", "active") : badge("ended")) },
            { name: "Keys that start with", cell: (one) => h("code", {}, one.prefix) },
            { name: "Until", cell: (one) => time(one.ended_at ?? one.until) },
            { name: "By", cell: (one) => one.by },
            { name: "Reason", cell: (one) => one.why || h("span", { class: "none" }, "not given") },
            {
              name: "",
              cell: (one) =>
                active(one)
                  ? button("End", {
                      reason: refused,
                      name: `end-${one.id}`,
                      press: thenAgain(() => endSilence(one.id)),
                    })
                  : null,
            },
          ],
          silences,
        ),
  );
}

export const oneAlert = {
  title: ({ id }) => id,
  kinds: ["alert", "silence"],
  needs,
  load: ({ id }, signal) => api.get(`/alerts/${api.part(id)}`, signal),
  draw: (found) => {
    const { alert, deliveries } = found;
    const refused = forbidden();
    return [
      h(
        "div",
        { class: "panels" },
        panel(
          alert.title,
          {
            wide: true,
            tools: h(
              "span",
              { class: "row" },
              found.state === "dead"
                ? button("Retry", { reason: refused, name: "retry", press: thenAgain(() => retryAlert(alert.id)) })
                : null,
              button("Silence alerts like this …", {
                reason: refused,
                name: "silence",
                press: thenAgain(() => silence(alert.dedup_key)),
              }),
            ),
          },
          h("p", { class: "body" }, linked(alert.body)),
          facts([
            ["Severity", badge(alert.severity)],
            ["Delivery", deliveryBadge(found.state)],
            ["When", time(alert.at, { seconds: true })],
            ["Key", h("code", {}, alert.dedup_key)],
            ["Silenced by", found.silence],
          ]),
          refused && state.session ? h("p", { class: "note refused" }, `${refused} `, signInLink()) : null,
        ),
        panel(
          "Deliveries",
          { wide: true },
          deliveries.length === 0
            ? notice("info", h("p", {}, "Nothing has been sent yet."))
            : deliveryTable(deliveries),
        ),
      ),
    ];
  },
};

function deliveryTable(deliveries) {
  return table(
    "Deliveries",
    [
      { name: "To", head: true, cell: (one) => endpoint(one.endpoint) },
      { name: "State", cell: (one) => [deliveryBadge(one.state), one.held ? " held back" : ""] },
      { name: "Attempts", number: true, cell: (one) => number(one.attempts) },
      { name: "Refusals", number: true, cell: (one) => number(one.refusals) },
      {
        name: "When",
        cell: (one) =>
          one.delivered_at
            ? time(one.delivered_at)
            : one.state === "pending"
              ? ["next ", ago(one.next_attempt_at)]
              : "–",
      },
      { name: "Last error", cell: (one) => one.last_error ?? h("span", { class: "none" }, "none") },
    ],
    deliveries,
  );
}

const endpoint = (value) =>
  typeof value === "string" ? value : [value.channel, value.address].filter(Boolean).join(":");

// ----------------------------------------------------------------
// The audit: who did what, and why.

export const audit = {
  title: () => "Audit",
  lead: "Every command that was given, by whom and why.",
  kinds: ["setting", "cycle", "alias", "alert", "audit", "audit_outcome"],
  load: ({ query }, signal) => api.list("audit", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) =>
    items.length === 0
      ? [
          empty(
            "No command has been given yet.",
            "Retrain, approve, roll back and the like appear here with who gave them and why.",
          ),
        ]
      : [
          h(
            "section",
            { class: "panel" },
            table(
              "Commands, newest first",
              [
                { name: "When", cell: (entry) => time(entry.at, { seconds: true }) },
                { name: "Who", head: true, cell: (entry) => entry.actor },
                { name: "What", cell: (entry) => h("strong", {}, words(entry.action)) },
                { name: "Subject", cell: (entry) => linked(entry.subject || "–") },
                { name: "Reason", cell: (entry) => linked(entry.detail || "not given") },
                { name: "Result", cell: (entry) => linked(entry.outcome || "not recorded") },
              ],
              items,
            ),
            pager("audit", Number(query.get("from") ?? 0), LIMIT, next),
          ),
        ],
};
