//! What the loop was worth, in words that follow from the interval alone.

use super::format::{metric, signed};
use super::model::Report;

/// A headline and the sentence under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) headline: String,
    pub(super) sentence: String,
}

/// Says "better" or "worse" only where the whole interval does.
pub(super) fn verdict(report: &Report) -> Verdict {
    let Some(ci) = report.ci else {
        return Verdict {
            headline: "Nothing can be said of what the loop was worth".into(),
            sentence: "Too few flights have an outcome: ROC-AUC needs delayed flights and punctual ones.".into(),
        };
    };
    let gain = signed(ci.difference);
    let headline = match (ci.low > 0.0, ci.high < 0.0) {
        (true, _) => format!("The loop was worth {} of ROC-AUC", metric(Some(ci.difference))),
        (_, true) => format!("The loop cost {} of ROC-AUC", metric(Some(-ci.difference))),
        _ => "The loop made no difference that can be told from chance".to_owned(),
    };
    let sentence = format!(
        "Over {} flights the live service ranked delays with a ROC-AUC of {}; its first model, never replaced, \
         would have reached {}: a difference of {gain} ({:.0} % interval {} to {}).",
        super::format::count(report.live_loop.rows),
        metric(report.live_loop.roc_auc),
        metric(report.frozen.roc_auc),
        ci.confidence * 100.0,
        signed(ci.low),
        signed(ci.high),
    );
    Verdict { headline, sentence }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::report::fixture;

    #[test]
    fn the_headline_claims_no_more_than_the_interval() {
        let table = [
            ((0.031, 0.027, 0.035), "The loop was worth 0.031 of ROC-AUC"),
            ((0.002, -0.001, 0.005), "The loop made no difference that can be told from chance"),
            ((-0.010, -0.015, -0.006), "The loop cost 0.010 of ROC-AUC"),
        ];
        for ((difference, low, high), expected) in table {
            let mut report = fixture::report();
            report.ci = report.ci.map(|ci| super::super::DifferenceInterval { difference, low, high, ..ci });
            assert_eq!(verdict(&report).headline, expected);
        }
        let mut report = fixture::report();
        report.ci = None;
        assert!(verdict(&report).headline.starts_with("Nothing can be said"));
    }
}
