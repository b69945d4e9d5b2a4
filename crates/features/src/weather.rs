//! One number for how much the weather stands in the way of flying.

/// Weather severity between 0 (calm and clear) and 1 (hardly flyable).
///
/// Each part is 0 where it does not matter and 1 where it stops operations, and
/// the score is `1 - Π(1 - part)`, so that parts add up but never pass 1:
///
/// | part | 0 at | 1 at | source of the bounds |
/// | --- | --- | --- | --- |
/// | wind | 25 km/h | 90 km/h | crosswind limits of airliners, 30 to 40 kt |
/// | gusts | 35 km/h | 110 km/h | the same, gusting |
/// | visibility | 8 km | 0.4 km | US ceiling/visibility classes: VFR above 5 miles, LIFR under 1 |
/// | precipitation | 0 mm/h | 10 mm/h | WMO: heavy rain from 10 mm/h |
/// | icing | above 3 °C or dry | at or under 0 °C and wet | de-icing begins near freezing with moisture |
///
/// Wind, precipitation and icing weigh at most 0.6, visibility at most 0.8. A part
/// whose input is `NaN` counts as 0; all inputs `NaN` give `NaN`.
pub fn severity(
    wind_speed_kmh: f32,
    wind_gust_kmh: f32,
    visibility_km: f32,
    precipitation_mm: f32,
    temperature_c: f32,
) -> f32 {
    let inputs = [wind_speed_kmh, wind_gust_kmh, visibility_km, precipitation_mm, temperature_c];
    if inputs.iter().all(|value| value.is_nan()) {
        return f32::NAN;
    }
    let wind = 0.6 * ramp(wind_speed_kmh, 25.0, 90.0).max(ramp(wind_gust_kmh, 35.0, 110.0));
    let visibility = 0.8 * ramp(visibility_km, 8.0, 0.4);
    let precipitation = 0.6 * ramp(precipitation_mm, 0.0, 10.0);
    let wet = if precipitation_mm > 0.0 || visibility_km < 5.0 { 1.0 } else { 0.0 };
    let icing = 0.6 * ramp(temperature_c, 3.0, 0.0) * wet;
    1.0 - [wind, visibility, precipitation, icing].iter().map(|part| 1.0 - part).product::<f32>()
}

/// 0 at `from`, 1 at `to`, straight between and flat outside; 0 for `NaN`.
fn ramp(value: f32, from: f32, to: f32) -> f32 {
    if value.is_nan() { 0.0 } else { ((value - from) / (to - from)).clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_calm_clear_day_scores_nothing_and_a_blizzard_nearly_one() {
        assert_eq!(severity(10.0, 15.0, 16.0, 0.0, 20.0), 0.0);
        assert!(severity(80.0, 110.0, 0.4, 5.0, -2.0) > 0.95);
    }

    #[test]
    fn freezing_counts_only_when_it_is_wet() {
        assert_eq!(severity(0.0, 0.0, 16.0, 0.0, -10.0), 0.0);
        assert!(severity(0.0, 0.0, 16.0, 0.2, -1.0) > 0.5);
    }

    #[test]
    fn missing_parts_count_as_harmless_and_all_missing_is_unknown() {
        assert!(severity(f32::NAN, f32::NAN, 1.0, f32::NAN, f32::NAN) > 0.5);
        assert!(severity(f32::NAN, f32::NAN, f32::NAN, f32::NAN, f32::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn severity_stays_between_zero_and_one_and_never_falls_with_more_wind(
            wind in 0.0_f32..200.0, more in 0.0_f32..50.0, gust in 0.0_f32..200.0,
            visibility in 0.0_f32..30.0, rain in 0.0_f32..60.0, temperature in -40.0_f32..45.0,
        ) {
            let score = severity(wind, gust, visibility, rain, temperature);
            prop_assert!((0.0..=1.0).contains(&score));
            prop_assert!(severity(wind + more, gust, visibility, rain, temperature) >= score - 1e-6);
        }
    }
}
