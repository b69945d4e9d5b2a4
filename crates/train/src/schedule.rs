//! The learning rate over the steps of a run.

use delayd_training_job::params::Schedule;

/// Share of the steps in which the cosine schedule warms up.
const WARM_UP: f64 = 0.05;
/// Share of the steps in which the one-cycle schedule rises.
const RISE: f64 = 0.3;
/// Where a rise begins and a fall ends, as a share of the highest rate.
const FLOOR: f64 = 0.01;

/// The factor of the highest learning rate at `step` of `steps`, from 0.
pub fn factor(schedule: Schedule, step: usize, steps: usize) -> f64 {
    let progress = (step as f64 + 0.5) / steps.max(1) as f64;
    match schedule {
        Schedule::Constant => 1.0,
        Schedule::Cosine => rise_and_fall(progress, WARM_UP),
        Schedule::OneCycle => rise_and_fall(progress, RISE),
    }
}

fn rise_and_fall(progress: f64, rise: f64) -> f64 {
    if progress < rise {
        return FLOOR + (1.0 - FLOOR) * progress / rise;
    }
    let fallen = ((progress - rise) / (1.0 - rise)).clamp(0.0, 1.0);
    FLOOR + (1.0 - FLOOR) * (1.0 + (std::f64::consts::PI * fallen).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_stays_within_its_bounds_and_a_cosine_ends_near_nothing() {
        for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::OneCycle] {
            assert!((0..100).all(|step| (0.0..=1.0).contains(&factor(schedule, step, 100))));
        }
        assert!(factor(Schedule::Cosine, 99, 100) < 0.02);
        assert!(factor(Schedule::Cosine, 5, 100) > 0.98);
        assert!(factor(Schedule::OneCycle, 5, 100) < 0.25);
        assert!(factor(Schedule::OneCycle, 30, 100) > 0.98);
        assert_eq!(factor(Schedule::Constant, 0, 1), 1.0);
    }
}
