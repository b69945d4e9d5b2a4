//! From logits to probabilities, and from probabilities to yes or no.

use delayd_judge::evaluation::metrics::Confusion;
use delayd_training_job::params::ThresholdChoice;
use delayd_training_job::report::ChosenThreshold;

/// Chooses the threshold on calibrated scores. Ties go to the higher threshold:
/// fewer alerts for the same worth.
pub fn choose_threshold(choice: ThresholdChoice, scores: &[f32], labels: &[bool]) -> ChosenThreshold {
    let value = match choice {
        ThresholdChoice::Fixed(value) => value as f32,
        ThresholdChoice::MaxF1 => best_threshold(scores, labels, |f1, _| f1),
        ThresholdChoice::TargetRecall(target) => {
            // The first threshold from above that reaches the target.
            best_threshold(scores, labels, |_, recall| if recall + 1e-12 >= target { 1.0 } else { 0.0 })
        }
    };
    let counts = Confusion::at(scores, labels, value, None);
    ChosenThreshold {
        value,
        precision: counts.precision(),
        recall: counts.recall(),
        f1: counts.f1(),
        alert_share: counts.alert_share(),
    }
}

/// The highest score at which `worth(f1, recall)` is largest; one half without rows.
fn best_threshold(scores: &[f32], labels: &[bool], worth: impl Fn(f64, f64) -> f64) -> f32 {
    let mut order: Vec<usize> = (0..scores.len().min(labels.len())).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let positives = labels.iter().filter(|label| **label).count() as f64;
    let (mut caught, mut best) = (0.0, (f64::NEG_INFINITY, 0.5));
    for (taken, index) in order.iter().enumerate() {
        caught += f64::from(u8::from(labels[*index]));
        let next = order.get(taken + 1).map(|next| scores[*next]);
        if next == Some(scores[*index]) {
            continue;
        }
        let f1 = 2.0 * caught / (positives + taken as f64 + 1.0);
        let found = worth(f1, if positives > 0.0 { caught / positives } else { 0.0 });
        if found > best.0 {
            best = (found, scores[*index]);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 6] = [0.9, 0.8, 0.7, 0.6, 0.55, 0.1];
    const LABELS: [bool; 6] = [true, true, false, true, false, false];

    #[test]
    fn the_best_f1_is_found_at_a_score_that_occurs() {
        let chosen = choose_threshold(ThresholdChoice::MaxF1, &SCORES, &LABELS);
        assert_eq!(chosen.value, 0.6);
        assert!((chosen.f1 - 6.0 / 7.0).abs() < 1e-9 && chosen.recall == 1.0);
    }

    #[test]
    fn a_target_recall_is_reached_with_as_few_alerts_as_possible() {
        let chosen = choose_threshold(ThresholdChoice::TargetRecall(0.6), &SCORES, &LABELS);
        assert_eq!(chosen.value, 0.8);
        assert!(chosen.recall >= 0.6 && (chosen.alert_share - 2.0 / 6.0).abs() < 1e-9);
        assert_eq!(choose_threshold(ThresholdChoice::TargetRecall(1.0), &SCORES, &LABELS).value, 0.6);
    }

    #[test]
    fn a_fixed_threshold_stays_and_its_effect_is_reported() {
        let chosen = choose_threshold(ThresholdChoice::Fixed(0.75), &SCORES, &LABELS);
        assert_eq!((chosen.value, chosen.precision), (0.75, 1.0));
    }

    #[test]
    fn tied_scores_are_taken_together() {
        let chosen = choose_threshold(ThresholdChoice::MaxF1, &[0.5, 0.5, 0.2], &[true, false, false]);
        assert_eq!(chosen.value, 0.5);
        assert_eq!(chosen.alert_share, 2.0 / 3.0);
    }
}
