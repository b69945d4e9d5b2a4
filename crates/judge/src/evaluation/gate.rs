//! The gate: is the challenger better than the live model?
//!
//! Both models and the lookup table have scored the same rows. Differences are
//! paired: every bootstrap replicate draws blocks of rows once and judges all on
//! them. There are *claims*, of which at least one must be proven (the interval of
//! the gain lies above the bound), and *guards*, none of which may be broken (the
//! loss itself must not pass its bound). Two equal models prove nothing, so the
//! incumbent wins ties. The function is pure; what follows from a verdict is the
//! coordinator's.

use serde::{Deserialize, Serialize};

use crate::evaluation::metrics::{Confusion, Ranked, log_loss};
use crate::evaluation::report::ScoringLatency;
use crate::stats::{BlockBootstrap, Estimate, percentile_interval};
use delayd_core::Stored;
use delayd_core::ids::{Digest, ModelVersion};
use delayd_features::SpecDifference;

/// The rows of a comparison: what came of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GateRows {
    pub labels: Vec<bool>,
    /// Rows of one block are drawn together; see [`crate::evaluation::report::block_of`].
    pub blocks: Vec<u32>,
    /// Whether the row belongs to the most recent days or the slice that drifted most.
    pub recent: Vec<bool>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// What it is called in reasons: `model_v2`.
    pub name: String,
    pub scores: Vec<f32>,
    pub threshold: f32,
    /// 95th percentile of its latency per row, measured on this machine.
    pub latency_p95_us: Option<f64>,
    /// ROC-AUC by perturbation, see [`crate::evaluation::robustness`].
    pub robustness: Vec<(String, f64)>,
}

/// What must hold for a challenger to proceed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatePolicy {
    /// Confidence of the intervals.
    pub confidence: f64,
    /// Bootstrap replicates.
    pub replicates: usize,
    /// Fewer rows decide nothing.
    pub min_rows: usize,
    /// Fewer delayed (or punctual) flights decide nothing.
    pub min_positives: usize,
    /// The lower bound of the gain in ROC-AUC must lie above this (claim).
    pub min_roc_auc_gain: f64,
    /// The lower bound of the gain in log-loss must lie above this (claim).
    pub min_log_loss_gain: f64,
    /// ROC-AUC may fall by this much.
    pub max_roc_auc_loss: f64,
    /// Log-loss may rise by this much.
    pub max_log_loss_rise: f64,
    /// PR-AUC may fall by this much.
    pub max_pr_auc_loss: f64,
    /// Recall at each model's own threshold may fall by this much.
    pub max_recall_loss: f64,
    /// Recall at the live model's share of alerts may fall by this much.
    pub max_recall_loss_at_equal_alerts: f64,
    /// Accuracy at each model's own threshold may fall by this much: a guard
    /// against a threshold that went astray.
    pub max_accuracy_loss: f64,
    /// Accuracy at the live model's share of alerts may fall by this much.
    pub max_accuracy_loss_at_equal_alerts: f64,
    /// ROC-AUC must lie above the lookup table's by more than this.
    pub min_roc_auc_over_lookup: f64,
    /// Latency may grow by this factor.
    pub max_latency_ratio: f64,
    /// A 95th percentile below this is quick enough whatever the ratio.
    pub negligible_latency_us: f64,
    /// ROC-AUC under each perturbation may fall by this much.
    pub max_robustness_loss: f64,
    /// ROC-AUC on recent rows may fall by this much.
    pub max_recent_roc_auc_loss: f64,
    /// The fall of ROC-AUC from older to recent rows may be worse by this much.
    pub max_fade: f64,
}

impl Default for GatePolicy {
    fn default() -> Self {
        Self {
            confidence: 0.95,
            replicates: 300,
            min_rows: 500,
            min_positives: 50,
            min_roc_auc_gain: 0.0,
            min_log_loss_gain: 0.0,
            max_roc_auc_loss: 0.005,
            max_log_loss_rise: 0.005,
            max_pr_auc_loss: 0.01,
            max_recall_loss: 0.10,
            max_recall_loss_at_equal_alerts: 0.02,
            max_accuracy_loss: 0.03,
            max_accuracy_loss_at_equal_alerts: 0.01,
            min_roc_auc_over_lookup: 0.0,
            max_latency_ratio: 1.5,
            negligible_latency_us: 200.0,
            max_robustness_loss: 0.03,
            max_recent_roc_auc_loss: 0.01,
            max_fade: 0.03,
        }
    }
}

/// Whether a check proves a gain or guards against a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckRole {
    /// At least one must pass.
    Claim,
    /// All must pass.
    Guard,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GateCheck {
    /// `roc_auc_gain`, `latency_ratio`, `robustness.missing_weather`, …
    pub check: String,
    pub role: CheckRole,
    pub value: f64,
    /// What it was held against.
    pub bound: f64,
    /// The paired bootstrap interval of the value.
    pub interval: Option<Estimate>,
    pub passed: bool,
    pub reason: String,
}

impl Stored for GateCheck {
    const NAME: &'static str = "check of the gate";
}

/// What the gate's verdict was made from, as it is kept with the decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateInputs {
    /// The new model.
    pub challenger: ChallengerSeen,
    /// How quick the serving code was with each of the two, on this machine.
    #[serde(default)]
    pub latency: LatencyOfBoth,
    /// The model that was live.
    pub live: Option<ModelVersion>,
    /// What the challenger's inputs differ in from the live model's.
    #[serde(default)]
    pub feature_difference: Option<SpecDifference>,
    /// The dataset whose rows both were compared on.
    pub dataset: Digest,
    /// How many.
    pub rows: RowsCompared,
    /// The policy in force.
    pub policy: GatePolicy,
}

impl Stored for GateInputs {
    const NAME: &'static str = "inputs of the gate";
}

/// The challenger as the gate saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChallengerSeen {
    /// Its bundle.
    pub bundle: Digest,
    /// 95th percentile of the time for one flight, in microseconds.
    pub latency_p95_us: Option<f64>,
}

/// Latency of challenger and live model; none where it was not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyOfBoth {
    /// The challenger's.
    pub challenger: Option<ScoringLatency>,
    /// The live model's.
    pub live: Option<ScoringLatency>,
}

/// How many rows were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsCompared {
    /// Those of the recent part.
    pub recent: usize,
    /// All.
    pub all: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateVerdict {
    pub passed: bool,
    pub reason: String,
    pub checks: Vec<GateCheck>,
    pub rows: u64,
    pub positives: u64,
}

/// Compares. Without a live model the challenger has to beat the lookup table only.
pub fn compare(
    rows: &GateRows,
    challenger: &Scored,
    live: Option<&Scored>,
    lookup: &Scored,
    policy: &GatePolicy,
    seed: u64,
) -> GateVerdict {
    let comparison = Comparison { rows, challenger, live, lookup, policy };
    let mut checks = comparison.fitness();
    if checks.iter().all(|check| check.passed) {
        checks.extend(comparison.paired(seed));
        checks.extend(comparison.latency());
        checks.extend(comparison.robustness());
    }
    let broken = checks.iter().find(|check| check.role == CheckRole::Guard && !check.passed);
    let proven = checks.iter().find(|check| check.role == CheckRole::Claim && check.passed);
    let (passed, reason) = match (broken, proven, live) {
        (Some(broken), _, _) => (false, broken.reason.clone()),
        (None, Some(proven), _) => (true, proven.reason.clone()),
        (None, None, Some(live)) => {
            (false, format!("{} is not proven better than {}: kept the current model", challenger.name, live.name))
        }
        (None, None, None) => (false, format!("{} is not proven better than {}", challenger.name, lookup.name)),
    };
    let positives = rows.labels.iter().filter(|label| **label).count() as u64;
    GateVerdict { passed, reason, checks, rows: rows.labels.len() as u64, positives }
}

struct Comparison<'a> {
    rows: &'a GateRows,
    challenger: &'a Scored,
    live: Option<&'a Scored>,
    lookup: &'a Scored,
    policy: &'a GatePolicy,
}

/// The metrics of one model on one drawing of the rows.
struct Judged {
    roc_auc: Option<f64>,
    pr_auc: Option<f64>,
    log_loss: Option<f64>,
    recall: f64,
    recall_at_equal_alerts: Option<f64>,
    accuracy: f64,
    accuracy_at_equal_alerts: Option<f64>,
    recent: Option<f64>,
    older: Option<f64>,
}

/// A difference that is drawn again in every replicate.
struct Difference {
    check: &'static str,
    role: CheckRole,
    bound: f64,
    /// Positive where the challenger is better.
    gain: fn(&Judged, &Judged) -> Option<f64>,
    what: &'static str,
}

/// One model's rows, ranked once.
struct RankedModel<'a> {
    scored: &'a Scored,
    all: Ranked<'a>,
    alert_share: f64,
}

impl<'a> RankedModel<'a> {
    fn judge(&self, rows: &GateRows, weights: &[u32]) -> Judged {
        let part = |wanted: bool| {
            let kept = weights.iter().zip(&rows.recent);
            let kept: Vec<u32> = kept.map(|(weight, recent)| if *recent == wanted { *weight } else { 0 }).collect();
            self.all.roc_auc(Some(&kept))
        };
        let counts = Confusion::at(&self.scored.scores, &rows.labels, self.scored.threshold, Some(weights));
        let recall_at_equal_alerts = self.all.recall_at_alert_share(self.alert_share, Some(weights));
        let delayed = (counts.true_positives + counts.false_negatives) as f64 / counts.rows().max(1) as f64;
        Judged {
            roc_auc: self.all.roc_auc(Some(weights)),
            pr_auc: self.all.pr_auc(Some(weights)),
            log_loss: log_loss(&self.scored.scores, &rows.labels, Some(weights)),
            recall: counts.recall(),
            recall_at_equal_alerts,
            accuracy: counts.accuracy(),
            // Right are the delayed that are alerted, and the punctual that are not.
            accuracy_at_equal_alerts: recall_at_equal_alerts
                .map(|recall| 1.0 - delayed - self.alert_share + 2.0 * recall * delayed),
            recent: part(true),
            older: part(false),
        }
    }
}

impl Comparison<'_> {
    fn guard(&self, check: &str, value: f64, bound: f64, passed: bool, reason: String) -> GateCheck {
        let check = check.to_owned();
        GateCheck { check, role: CheckRole::Guard, value, bound, interval: None, passed, reason }
    }

    /// Whether the rows can decide anything at all.
    fn fitness(&self) -> Vec<GateCheck> {
        let rows = self.rows.labels.len();
        let models = [Some(self.challenger), self.live, Some(self.lookup)];
        let same = models.iter().flatten().all(|model| model.scores.len() == rows)
            && self.rows.blocks.len() == rows
            && self.rows.recent.len() == rows;
        let finite = models.iter().flatten().all(|model| model.scores.iter().all(|score| score.is_finite()));
        let positives = self.rows.labels.iter().filter(|label| **label).count();
        let rarer = positives.min(rows - positives);
        let (min_rows, min_positives) = (self.policy.min_rows, self.policy.min_positives);
        let guard = |check, value: f64, bound: f64, passed, good: String, bad: String| {
            self.guard(check, value, bound, passed, if passed { good } else { bad })
        };
        vec![
            guard(
                "same_rows",
                f64::from(u8::from(same && finite)),
                1.0,
                same && finite,
                format!("all models scored the same {rows} rows"),
                format!("the models did not all score the same {rows} rows with finite scores"),
            ),
            guard(
                "rows",
                rows as f64,
                min_rows as f64,
                rows >= min_rows,
                format!("{rows} rows are enough"),
                format!("{rows} rows are too few to decide on, {min_rows} are needed"),
            ),
            guard(
                "positives",
                rarer as f64,
                min_positives as f64,
                rarer >= min_positives,
                format!("the rarer class has {rarer} rows"),
                format!("the rarer class has only {rarer} rows, {min_positives} are needed"),
            ),
        ]
    }

    fn rank<'b>(&'b self, scored: &'b Scored, alert_share: f64) -> RankedModel<'b> {
        RankedModel { scored, all: Ranked::new(&scored.scores, &self.rows.labels), alert_share }
    }

    fn paired(&self, seed: u64) -> Vec<GateCheck> {
        // Both are held to the incumbent's number of alerts.
        let reference = self.live.unwrap_or(self.challenger);
        let share = Confusion::at(&reference.scores, &self.rows.labels, reference.threshold, None).alert_share();
        let challenger = self.rank(self.challenger, share);
        let lookup = self.rank(self.lookup, share);
        let live = self.live.map(|live| self.rank(live, share));
        let ones = vec![1_u32; self.rows.labels.len()];
        let against_live = if live.is_some() { self.live_differences() } else { Vec::new() };
        let against_lookup = self.lookup_difference();

        let mut drawn: Vec<Vec<f64>> = vec![Vec::new(); against_live.len() + 1];
        let gains = |weights: &[u32]| -> Vec<Option<f64>> {
            let own = challenger.judge(self.rows, weights);
            let live = live.as_ref().map(|live| live.judge(self.rows, weights));
            let lookup = lookup.judge(self.rows, weights);
            let from_live = live.iter().flat_map(|live| against_live.iter().map(|d| (d.gain)(&own, live)));
            from_live.chain([(against_lookup.gain)(&own, &lookup)]).collect()
        };
        let whole = gains(&ones);
        BlockBootstrap::new(&self.rows.blocks, self.policy.replicates, seed).each(|weights| {
            for (replicates, gain) in drawn.iter_mut().zip(gains(weights)) {
                replicates.extend(gain);
            }
        });
        let differences = against_live.iter().chain([&against_lookup]);
        differences
            .zip(whole)
            .zip(drawn)
            .filter_map(|((difference, value), replicates)| self.judged(difference, value?, replicates))
            .collect()
    }

    fn judged(&self, difference: &Difference, value: f64, replicates: Vec<f64>) -> Option<GateCheck> {
        let interval = percentile_interval(value, replicates, self.policy.confidence)?;
        let passed = match difference.role {
            CheckRole::Claim => interval.low > difference.bound,
            CheckRole::Guard => value >= difference.bound,
        };
        let (name, what) = (&self.challenger.name, difference.what);
        let bounds = format!("{value:+.4} (interval {:+.4} to {:+.4})", interval.low, interval.high);
        let bound = difference.bound;
        let reason = match (difference.role, passed) {
            (CheckRole::Claim, true) => format!("{name} is proven better in {what}: {bounds}"),
            (CheckRole::Claim, false) => {
                format!("{name} is not proven better in {what}: {bounds} does not clear {bound:+.4}")
            }
            (CheckRole::Guard, true) => format!("{name} holds in {what}: {bounds}"),
            (CheckRole::Guard, false) => {
                format!("{name} loses too much in {what}: {bounds}, at least {bound:+.4} is needed")
            }
        };
        let check = difference.check.to_owned();
        Some(GateCheck { check, role: difference.role, value, bound, interval: Some(interval), passed, reason })
    }

    fn live_differences(&self) -> Vec<Difference> {
        use CheckRole::{Claim, Guard};
        let p = self.policy;
        let of = |check, role, bound, what, gain| Difference { check, role, bound, gain, what };
        let roc: fn(&Judged, &Judged) -> Option<f64> = |a, b| Some(a.roc_auc? - b.roc_auc?);
        let loss: fn(&Judged, &Judged) -> Option<f64> = |a, b| Some(b.log_loss? - a.log_loss?);
        vec![
            of("roc_auc_gain", Claim, p.min_roc_auc_gain, "ROC-AUC", roc),
            of("log_loss_gain", Claim, p.min_log_loss_gain, "log-loss", loss),
            of("roc_auc", Guard, -p.max_roc_auc_loss, "ROC-AUC", roc),
            of("log_loss", Guard, -p.max_log_loss_rise, "log-loss", loss),
            of("pr_auc", Guard, -p.max_pr_auc_loss, "PR-AUC", |a, b| Some(a.pr_auc? - b.pr_auc?)),
            of("recall", Guard, -p.max_recall_loss, "recall at its own threshold", |a, b| Some(a.recall - b.recall)),
            of(
                "recall_at_equal_alerts",
                Guard,
                -p.max_recall_loss_at_equal_alerts,
                "recall at the live model's share of alerts",
                |a, b| Some(a.recall_at_equal_alerts? - b.recall_at_equal_alerts?),
            ),
            of("accuracy", Guard, -p.max_accuracy_loss, "accuracy", |a, b| Some(a.accuracy - b.accuracy)),
            of(
                "accuracy_at_equal_alerts",
                Guard,
                -p.max_accuracy_loss_at_equal_alerts,
                "accuracy at the live model's share of alerts",
                |a, b| Some(a.accuracy_at_equal_alerts? - b.accuracy_at_equal_alerts?),
            ),
            of("drift_resilience.recent", Guard, -p.max_recent_roc_auc_loss, "ROC-AUC on recent rows", |a, b| {
                Some(a.recent? - b.recent?)
            }),
            of("drift_resilience.fade", Guard, -p.max_fade, "ROC-AUC kept from older to recent rows", |a, b| {
                Some((a.recent? - a.older?) - (b.recent? - b.older?))
            }),
        ]
    }

    /// With a live model the table is only to be beaten; without one it is the rival.
    fn lookup_difference(&self) -> Difference {
        Difference {
            check: "roc_auc_over_lookup",
            role: if self.live.is_some() { CheckRole::Guard } else { CheckRole::Claim },
            // A guard passes at its bound; a table must be beaten, not met.
            bound: self.policy.min_roc_auc_over_lookup + if self.live.is_some() { f64::EPSILON } else { 0.0 },
            gain: |a, b| Some(a.roc_auc? - b.roc_auc?),
            what: "ROC-AUC against the lookup table",
        }
    }

    fn latency(&self) -> Option<GateCheck> {
        let (own, live) = (self.challenger.latency_p95_us?, self.live?.latency_p95_us?);
        let ratio = own / live.max(1e-9);
        let bound = self.policy.max_latency_ratio;
        let passed = ratio <= bound || own <= self.policy.negligible_latency_us;
        let name = &self.challenger.name;
        let reason = if passed {
            format!("{name} answers a row in {own:.0} µs at the 95th percentile, {ratio:.2} times the live model's")
        } else {
            format!(
                "{name} is too slow: {own:.0} µs at the 95th percentile, {ratio:.2} times the live model's, at most {bound:.2} allowed"
            )
        };
        Some(self.guard("latency_ratio", ratio, bound, passed, reason))
    }

    fn robustness(&self) -> Vec<GateCheck> {
        let Some(live) = self.live else { return Vec::new() };
        let bound = -self.policy.max_robustness_loss;
        let pairs = self.challenger.robustness.iter().filter_map(|(name, own)| {
            let (_, before) = live.robustness.iter().find(|(other, _)| other == name)?;
            Some((name, own - before))
        });
        let check = |(name, change): (&String, f64)| {
            let passed = change >= bound;
            let state = if passed { "holds" } else { "loses too much" };
            let reason = format!(
                "{} {state} under {name}: ROC-AUC {change:+.4}, at least {bound:+.4} is needed",
                self.challenger.name
            );
            self.guard(&format!("robustness.{name}"), change, bound, passed, reason)
        };
        pairs.map(check).collect()
    }
}
