//! What a list of drift reports shows of each: how far every input moved, without
//! its bins. A whole report has about 90 kB with 81 inputs; its brief has 9.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use delayd_core::document::DocumentError;
use delayd_core::ids::{DriftReportId, ModelVersion};
use delayd_judge::monitoring::drift::{DriftReport, DriftStatus, FeatureDrift, SignalKind};
use delayd_ledger::DriftRecord;

/// One evaluation in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DriftBrief {
    /// The report.
    pub id: DriftReportId,
    /// When it was evaluated.
    pub at: DateTime<Utc>,
    /// The model whose reference was compared.
    pub model: ModelVersion,
    /// The verdict.
    pub status: DriftStatus,
    /// The score, then the inputs by falling contribution.
    pub signals: Vec<SignalBrief>,
}

/// One input, or the score, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SignalBrief {
    /// Its name.
    pub input: String,
    /// What it is.
    pub kind: SignalKind,
    /// How much the model uses it, 0 to 1 (0 for the score).
    pub importance: f64,
    /// Its effect size, see [`delayd_judge::monitoring::skew::Distances::excess_psi`].
    pub excess_psi: f64,
    /// Whether this window exceeds the thresholds.
    pub exceeded: bool,
    /// Exceeded, and persistently.
    pub drifted: bool,
}

impl DriftBrief {
    /// The short form of a stored report.
    pub fn of(record: &DriftRecord) -> Result<Self, DocumentError> {
        let report = record.report.read::<DriftReport>()?;
        let signals = std::iter::once(&report.score).chain(&report.features).map(SignalBrief::of).collect();
        Ok(Self { id: record.id, at: record.at, model: record.model, status: report.status, signals })
    }
}

impl SignalBrief {
    fn of(signal: &FeatureDrift) -> Self {
        Self {
            input: signal.input.clone(),
            kind: signal.kind,
            importance: signal.importance,
            excess_psi: signal.distances.excess_psi,
            exceeded: signal.exceeded,
            drifted: signal.drifted,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use delayd_core::Document;
    use delayd_judge::monitoring::settings::DriftPolicy;
    use delayd_judge::monitoring::skew::Distances;

    fn signal(input: &str, kind: SignalKind, excess_psi: f64) -> FeatureDrift {
        FeatureDrift {
            input: input.to_owned(),
            kind,
            importance: 0.25,
            distances: Distances { excess_psi, ..Distances::default() },
            bins: (0..40).map(|bin| format!("bin {bin}")).collect(),
            reference_shares: vec![1.0 / 40.0; 40],
            window_shares: vec![1.0 / 40.0; 40],
            exceeded: excess_psi > 0.2,
            windows_exceeded: 1,
            drifted: false,
            reason: "as it is".to_owned(),
        }
    }

    fn record() -> DriftRecord {
        let at: DateTime<Utc> = "2013-03-01T06:00:00Z".parse().unwrap();
        let report = DriftReport {
            ended_at: at,
            layout: "layout".to_owned(),
            rows: 12_000,
            days: 14,
            reference_rows: 30_000,
            dataset_psi: 0.05,
            features: vec![
                signal("pressure_hpa", SignalKind::Numeric, 0.31),
                signal("carrier", SignalKind::Category, 0.0),
            ],
            score: signal("score", SignalKind::Score, 0.1),
            exceeded: BTreeSet::new(),
            alarms: Vec::new(),
            status: DriftStatus::Suspected,
            reason: "pressure_hpa moved".to_owned(),
            policy: DriftPolicy::default(),
        };
        DriftRecord {
            id: DriftReportId(3),
            at,
            model: ModelVersion(2),
            window_from: at,
            window_until: at,
            drifted: false,
            report: Document::of(&report).unwrap(),
        }
    }

    #[test]
    fn a_brief_has_every_signal_and_is_far_smaller() {
        let record = record();
        let brief = DriftBrief::of(&record).unwrap();
        let told: Vec<(&str, f64, bool)> =
            brief.signals.iter().map(|signal| (signal.input.as_str(), signal.excess_psi, signal.exceeded)).collect();
        assert_eq!(told, [("score", 0.1, false), ("pressure_hpa", 0.31, true), ("carrier", 0.0, false)]);
        assert_eq!((brief.id, brief.model, brief.status), (record.id, record.model, DriftStatus::Suspected));
        let (short, long) =
            (serde_json::to_vec(&brief).unwrap().len(), serde_json::to_vec(&record.report).unwrap().len());
        assert!(short * 5 < long, "{short} of {long} bytes");
    }

    #[test]
    fn what_is_not_a_report_is_refused() {
        let mut record = record();
        record.report = json!({ "features": "many" }).into();
        assert!(DriftBrief::of(&record).is_err());
    }
}
