//! Names of documents in the words that people use for them.

/// `kept_live` as `kept live model`, `rolled_back` as `rolled back`: what the page says too.
pub(in crate::cli) fn words(name: &str) -> String {
    match name {
        "kept_live" => "kept live model".to_owned(),
        "waiting_approval" => "waits for approval".to_owned(),
        other => other.replace('_', " "),
    }
}

/// Measurements with internal names, in a sentence: `auc` as `ROC-AUC`. Whole words only.
pub(in crate::cli) fn sentence(text: &str) -> String {
    const NAMES: [(&str, &str); 8] = [
        ("auc", "ROC-AUC"),
        ("roc_auc", "ROC-AUC"),
        ("pr_auc", "PR-AUC"),
        ("log_loss_skill", "log-loss skill"),
        ("log_loss", "log-loss"),
        ("calibration_error", "calibration error"),
        ("expected_calibration_error", "calibration error"),
        ("brier_skill", "Brier skill"),
    ];
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    let mut told = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| part(c) != part(first)).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        told.push_str(NAMES.iter().find(|(name, _)| *name == piece).map_or(piece, |(_, name)| name));
        rest = after;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_names_are_told_as_people_say_them() {
        let told = sentence("concept drift: over 14 days auc is 0.656, log_loss_skill is 0.033 (drift_7, log-loss)");
        assert_eq!(told, "concept drift: over 14 days ROC-AUC is 0.656, log-loss skill is 0.033 (drift_7, log-loss)");
        assert_eq!(sentence("the inaugural ROC-AUC"), "the inaugural ROC-AUC");
        assert_eq!(
            (words("kept_live"), words("undo_failed")),
            ("kept live model".to_owned(), "undo failed".to_owned())
        );
    }
}
