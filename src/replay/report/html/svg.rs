//! A small canvas for charts.
//!
//! Hand-written instead of `plotters`: its SVG bakes colours and text sizes into
//! attributes, knows no classes (so no dark mode from one file), no `role`,
//! `aria-label` or `<title>` (so nothing for screen readers and no tooltips), and
//! estimates text widths without fonts. What is needed here is lines, rectangles
//! and labels, drawn once for wide screens and once for phones.

use std::fmt::Write as _;

use super::escaped;

/// Which of the two drawings: text keeps its size, the plot does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// For screens and paper.
    Wide,
    /// For phones.
    Narrow,
}

impl Frame {
    /// Width in user units, about one per CSS pixel.
    pub(super) fn width(self) -> f64 {
        match self {
            Self::Wide => 920.0,
            Self::Narrow => 370.0,
        }
    }

    /// One of two values.
    pub(super) fn pick<T>(self, wide: T, narrow: T) -> T {
        match self {
            Self::Wide => wide,
            Self::Narrow => narrow,
        }
    }
}

/// Where a label is held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// Maps values to user units, linearly.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Scale {
    pub(super) fn at(&self, value: f64) -> f64 {
        let span = self.high - self.low;
        let share = if span == 0.0 { 0.5 } else { (value - self.low) / span };
        self.from + share * (self.to - self.from)
    }

    /// Round values within the scale, about `wanted` of them.
    pub(super) fn ticks(&self, wanted: usize) -> Vec<f64> {
        let span = self.high - self.low;
        if span <= 0.0 || !span.is_finite() {
            return vec![self.low];
        }
        let rough = span / wanted.max(1) as f64;
        let magnitude = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.low / step - 1e-9).ceil() as i64;
        (first..).map(|n| n as f64 * step).take_while(|tick| *tick <= self.high + step * 1e-9).collect()
    }
}

/// With how many decimals every tick reads as what it is: three for steps of 0.025. At least `least`.
pub(super) fn decimals(ticks: &[f64], least: usize) -> usize {
    let [first, second, ..] = ticks else { return least };
    let tolerated = (second - first).abs() / 1000.0;
    let exact = |decimals: usize| {
        let power = 10.0_f64.powi(decimals as i32);
        ticks.iter().all(|tick| ((tick * power).round() / power - tick).abs() <= tolerated)
    };
    (least..6).find(|decimals| exact(*decimals)).unwrap_or(6)
}

/// The smallest and largest of finite values, widened by a twentieth each way.
pub(super) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let margin = if high > low { (high - low) / 20.0 } else { 0.01 };
    (low <= high).then_some((low - margin, high + margin))
}

/// An SVG being drawn.
pub(super) struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    // Writing into a `String` cannot fail: its `fmt::Result` is always `Ok`.
    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(element);
    }

    fn close(&mut self, tag: &str, tip: Option<&str>) {
        match tip {
            None => self.body.push_str("/>"),
            Some(tip) => {
                let tip = escaped(tip);
                self.push(format_args!("><title>{tip}</title></{tag}>"));
            }
        }
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    /// A rectangle from its upper left corner, with a tooltip.
    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str, tip: Option<&str>) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\""
        ));
        self.close("rect", tip);
    }

    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, class: &str, tip: Option<&str>) {
        self.push(format_args!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\""));
        self.close("circle", tip);
    }

    /// A line through points; `None` lifts the pen.
    pub(super) fn path(&mut self, points: impl Iterator<Item = Option<(f64, f64)>>, class: &str) {
        let mut drawing = false;
        let mut d = String::new();
        for point in points {
            if let Some((x, y)) = point {
                let _ = write!(d, "{}{x:.1} {y:.1}", if drawing { 'L' } else { 'M' });
            }
            drawing = point.is_some();
        }
        if !d.is_empty() {
            self.push(format_args!("<path class=\"{class}\" d=\"{d}\"/>"));
        }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(text);
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    /// The finished drawing; `label` tells those who cannot see it what it shows.
    pub(super) fn finish(self, label: &str) -> String {
        let Self { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">{body}</svg>",
            escaped(label)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_scale() {
        let scale = |low, high| Scale { low, high, from: 0.0, to: 100.0 };
        assert_eq!(scale(0.0, 1.0).ticks(5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(scale(13.0, 58.0).ticks(4), [20.0, 40.0]);
        assert_eq!(scale(2.0, 2.0).ticks(4), [2.0]);
        assert!((scale(0.5, 1.5).at(1.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn labels_have_the_decimals_that_their_steps_need() {
        for (ticks, least, wanted) in [
            (&[0.0, 2.5, 5.0, 7.5][..], 0, 1),
            (&[0.0, 25.0, 50.0][..], 0, 0),
            (&[0.7, 0.725, 0.75][..], 2, 3),
            (&[0.6, 0.7, 0.8][..], 2, 2),
            (&[3.0][..], 2, 2),
        ] {
            assert_eq!(decimals(ticks, least), wanted, "{ticks:?}");
        }
    }

    #[test]
    fn a_gap_in_the_data_is_a_gap_in_the_line() {
        let mut canvas = Canvas::new(10.0, 10.0);
        canvas.path([Some((0.0, 0.0)), Some((1.0, 1.0)), None, Some((3.0, 3.0))].into_iter(), "x");
        let svg = canvas.finish("a \"label\"");
        assert!(svg.contains("d=\"M0.0 0.0L1.0 1.0M3.0 3.0\""), "{svg}");
        assert!(svg.contains("aria-label=\"a &quot;label&quot;\""), "{svg}");
    }

    #[test]
    fn the_extent_leaves_out_what_is_not_finite() {
        let (low, high) = extent([1.0, f64::NAN, 3.0].into_iter()).unwrap();
        assert!((low - 0.9).abs() < 1e-9 && (high - 3.1).abs() < 1e-9);
        assert_eq!(extent(std::iter::empty()), None);
    }
}
