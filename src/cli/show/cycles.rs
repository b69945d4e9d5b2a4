//! `delayd cycles` and `delayd why`.

use super::super::commands::CliError;
use super::super::source::Source;
use super::evaluation;
use super::training::validation_text;
use super::words::{sentence, words};
use super::{Shown, UNREADABLE, at, drawn, keep, listed, one_more, read, state, table};
use crate::http::CycleDocument;
use delayd_core::ids::{CycleId, DecisionId};
use delayd_judge::decide::Weighed;
use delayd_judge::verification::VerificationReport;
use delayd_ledger::Cycle;

pub(super) fn outcome(cycle: &Cycle) -> String {
    cycle.outcome.map_or_else(|| cycle.state.to_string(), |outcome| outcome.to_string())
}

pub(in crate::cli) async fn cycles(source: &Source, cycle: Option<CycleId>, limit: u32) -> Result<Shown, CliError> {
    if let Some(id) = cycle {
        return one_cycle(source, id).await;
    }
    let mut cycles = source.cycles(one_more(limit)).await?;
    let more = keep(&mut cycles, limit);
    let mut rows = table(&["cycle", "started", "reason", "outcome", "detail"]);
    for cycle in &cycles {
        rows.add_row([
            cycle.id.to_string().into(),
            at(cycle.started_at).into(),
            sentence(&cycle.reason.to_string()).into(),
            state(&outcome(cycle)),
            // The whole of it, with a failed build's last lines, stands under the cycle itself.
            sentence(cycle.detail.lines().next().unwrap_or_default()).into(),
        ]);
    }
    let nothing = "no cycle yet; `delayd run` begins one once there are enough flights, `delayd retrain` asks for one";
    Shown::new(&cycles, listed(rows, limit, more, nothing))
}

async fn one_cycle(source: &Source, id: CycleId) -> Result<Shown, CliError> {
    let document = source.cycle(id).await?;
    let CycleDocument { cycle, steps, decisions, verifications, refused_dataset, .. } = &document;
    let mut rows = table(&["step", "state", "seconds", "attempt", "what came of it"]);
    for step in steps {
        let seconds = step.wall_ms.map_or_else(String::new, |ms| format!("{:.2}", ms as f64 / 1000.0));
        let told = step.error.clone().unwrap_or_else(|| step.progress.clone());
        rows.add_row([
            step.name.as_str().into(),
            state(step.state.as_str()),
            seconds.into(),
            step.attempt.to_string().into(),
            told.into(),
        ]);
    }
    let asked: Vec<String> = decisions
        .iter()
        .map(|decision| format!("{} ({}: {})", decision.id, words(&decision.kind), words(&decision.outcome)))
        .collect();
    let verified: Vec<String> = verifications
        .iter()
        .map(|found| {
            let report = read::<VerificationReport>(&found.report);
            let reason = report.as_ref().map_or(UNREADABLE, |report| &report.reason);
            format!("{} ({reason})", if found.passed { "passed" } else { "failed" })
        })
        .collect();
    let why = sentence(&cycle.reason.to_string());
    let mut text =
        format!("{} {}: {why}\n{}\n{}", cycle.id, words(&outcome(cycle)), sentence(&cycle.detail), drawn(rows));
    for (what, said) in [("decisions", asked), ("verified", verified)] {
        if !said.is_empty() {
            text.push_str(&format!("\n{what}: {}", said.join(", ")));
        }
    }
    if let Some(refused) = refused_dataset {
        text.push_str(&format!("\nits dataset of {} rows was refused", refused.rows));
        text.push_str(&validation_text(&refused.validation));
    }
    Shown::new(&document, text)
}

pub(in crate::cli) async fn why(source: &Source, decision: Option<DecisionId>, limit: u32) -> Result<Shown, CliError> {
    let Some(id) = decision else {
        let mut decisions = source.decisions(one_more(limit)).await?;
        let more = keep(&mut decisions, limit);
        let mut rows = table(&["decision", "at", "about", "outcome", "reason"]);
        for decision in &decisions {
            rows.add_row([
                decision.id.to_string(),
                decision.at.format("%Y-%m-%d %H:%M").to_string(),
                words(&decision.kind),
                words(&decision.outcome),
                sentence(&decision.reason),
            ]);
        }
        let nothing =
            "nothing was decided yet; a decision is noted when a cycle begins or is held back, and at each gate";
        return Shown::new(&decisions, listed(rows, limit, more, nothing));
    };
    let found = source.decision(id).await?;
    let mut text = format!(
        "{id}, {} ({}): {}\n\n{}\n",
        found.at.format("%Y-%m-%d %H:%M"),
        words(&found.kind),
        words(&found.outcome),
        sentence(&found.reason)
    );
    if let Some(alternatives) = read::<Vec<Weighed>>(&found.alternatives) {
        let mut rows = table(&["alternative", "taken", "why"]);
        for other in alternatives {
            let taken = if other.taken { "yes" } else { "no" };
            rows.add_row([words(&other.name), taken.to_owned(), sentence(&other.why)]);
        }
        text.push_str(&format!("\nalternatives\n{}\n", drawn(rows)));
    }
    if let Some(tests) = read(&found.tests) {
        text.push_str(&format!("\ntests\n{}\n", evaluation::checks(tests)));
    }
    if let Some(gate) = read(&found.inputs) {
        for told in [evaluation::latency(&gate), evaluation::feature_difference(&gate)].into_iter().flatten() {
            text.push_str(&format!("\n{told}\n"));
        }
    }
    text.push_str("\nevery input is stored: `--json` shows it");
    Shown::new(&found, text)
}
