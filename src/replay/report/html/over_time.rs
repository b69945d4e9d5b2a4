//! Metrics week by week, with the models that were live.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, Utc};

use super::svg::{Anchor, Canvas, Frame, Scale, decimals, extent};
use super::{Figure, Table};
use crate::replay::report::format::{count, day, metric, percent, short_version, signed};
use crate::replay::report::model::{Report, Week, WeekMetrics};

/// Which metric of a week.
type Pick = fn(&WeekMetrics) -> Option<f64>;

/// The whole section's charts; empty without weeks.
pub(super) fn charts(report: &Report) -> String {
    if report.over_time.is_empty() {
        return "<p class=\"none\">No flight with an outcome.</p>".into();
    }
    let figure = |title: &str, caption: &str, draw: &dyn Fn(Frame) -> String, table: Table| {
        Figure { title, caption, key: "", beside: false, drawn: (draw(Frame::Wide), draw(Frame::Narrow)), table }.html()
    };
    let lines = |title: &str, caption: &str, lines: Lines| {
        figure(title, caption, &|f| lines.draw(report, f), lines.table(report))
    };
    [
        lines(
            "ROC-AUC by week",
            "Shaded bands are the models that were live. Higher is better; 0.5 is guessing.",
            Lines { name: "ROC-AUC", pick: |m| m.roc_auc, height: 300.0, better: "higher is better" },
        ),
        figure(
            "What the loop gained, by week",
            "ROC-AUC of the loop minus the frozen first model\u{2019}s: above the line, the loop ranked better.",
            &|f| gain(report, f),
            gain_table(report),
        ),
        lines(
            "Log-loss by week",
            "In nats; lower is better.",
            Lines { name: "Log-loss", pick: |m| m.log_loss, height: 190.0, better: "nats, lower is better" },
        ),
        lines(
            "Calibration error by week",
            "Expected calibration error over 15 bins; lower is better.",
            Lines { name: "Calibration error", pick: |m| m.ece, height: 190.0, better: "lower is better" },
        ),
        figure(
            "Share of flights delayed, by week",
            "How hard the world was: arrivals 15 minutes late or more.",
            &|f| share(report, f),
            share_table(report),
        ),
    ]
    .concat()
}

struct Lines {
    name: &'static str,
    pick: Pick,
    height: f64,
    better: &'static str,
}

/// The three, from the back to the front.
fn series(week: &Week) -> [(&'static str, &WeekMetrics); 3] {
    [("lookup", &week.lookup), ("frozen", &week.frozen), ("loop", &week.live_loop)]
}

/// The plot's place and its axis of time.
struct Plot {
    frame: Frame,
    time: Scale,
    top: f64,
    bottom: f64,
}

impl Plot {
    fn new(report: &Report, frame: Frame, height: f64, right: f64) -> Self {
        let first = report.over_time.first().map_or(0.0, |w| days_of(w.week_start));
        let last = report.over_time.last().map_or(0.0, |w| days_of(w.week_start)) + 7.0;
        let time = Scale { low: first, high: last, from: frame.pick(44.0, 38.0), to: frame.width() - right };
        Self { frame, time, top: 24.0, bottom: height - 22.0 }
    }

    fn height(&self) -> f64 {
        self.bottom + 22.0
    }

    /// The middle of a week.
    fn x(&self, week: &Week) -> f64 {
        self.time.at(days_of(week.week_start) + 3.5)
    }

    fn months(&self, canvas: &mut Canvas) {
        let Some(mut date) = NaiveDate::from_num_days_from_ce_opt(self.time.low as i32) else { return };
        let mut room_from = f64::NEG_INFINITY;
        while days_of(date) < self.time.high {
            let x = self.time.at(days_of(date));
            if date.day() == 1 {
                canvas.line((x, self.bottom), (x, self.bottom + 4.0), "axis");
                if x >= room_from && x + 20.0 < self.time.to {
                    let text = if date.month() == 1 { date.format("%b %Y") } else { date.format("%b") };
                    canvas.text((x + 3.0, self.bottom + 15.0), Anchor::Start, "tick", &text.to_string());
                    room_from = x + self.frame.pick(40.0, 32.0);
                }
            }
            let Some(next) = date.checked_add_days(Days::new(1)) else { return };
            date = next;
        }
        canvas.line((self.time.from, self.bottom), (self.time.to, self.bottom), "axis");
    }

    /// Alternating bands, a line at each change, and the models' names where there is room.
    fn models(&self, canvas: &mut Canvas, report: &Report) {
        let mut room_from = f64::NEG_INFINITY;
        for (index, model) in report.models.iter().enumerate() {
            let from = self.time.at(moment(model.live_from)).clamp(self.time.from, self.time.to);
            let until = model.live_until.map_or(self.time.to, |at| self.time.at(moment(at)).clamp(from, self.time.to));
            let tip = format!("{} live from {}: {}", model.version, day(model.live_from.date_naive()), model.reason);
            let class = if index % 2 == 0 { "band even" } else { "band odd" };
            canvas.rect((from, self.top - 18.0), (until - from, self.bottom - self.top + 18.0), class, Some(&tip));
            if index > 0 {
                canvas.line((from, self.top - 18.0), (from, self.bottom), "change");
            }
            if from >= room_from && from + 14.0 <= self.time.to {
                canvas.text((from + 4.0, self.top - 7.0), Anchor::Start, "version", &short_version(model.version));
                room_from = from + 24.0;
            }
        }
    }

    fn grid(
        &self,
        canvas: &mut Canvas,
        value: &Scale,
        wanted: usize,
        least: usize,
        show: &dyn Fn(f64, usize) -> String,
    ) {
        let ticks = value.ticks(wanted);
        let places = decimals(&ticks, least);
        for tick in ticks {
            let y = value.at(tick);
            canvas.line((self.time.from, y), (self.time.to, y), "grid");
            canvas.text((self.time.from - 6.0, y + 4.0), Anchor::End, "tick", &show(tick, places));
        }
    }
}

fn days_of(date: NaiveDate) -> f64 {
    f64::from(date.num_days_from_ce())
}

fn moment(at: DateTime<Utc>) -> f64 {
    days_of(at.date_naive()) + (at.time() - NaiveTime::MIN).num_minutes() as f64 / 1440.0
}

impl Lines {
    fn draw(&self, report: &Report, frame: Frame) -> String {
        let plot = Plot::new(report, frame, frame.pick(self.height, self.height * 0.8), frame.pick(58.0, 54.0));
        let mut canvas = Canvas::new(frame.width(), plot.height());
        plot.models(&mut canvas, report);
        let values = report.over_time.iter().flat_map(|w| series(w).map(|(_, m)| (self.pick)(m))).flatten();
        let Some((low, high)) = extent(values) else { return canvas.finish("No values") };
        let value = Scale { low, high, from: plot.bottom, to: plot.top };
        plot.grid(&mut canvas, &value, if self.height > 200.0 { 5 } else { 3 }, 2, &|tick, places| {
            format!("{tick:.places$}")
        });
        plot.months(&mut canvas);
        let mut labels = Vec::new();
        for (index, name) in ["lookup", "frozen", "loop"].into_iter().enumerate() {
            let points: Vec<_> = report
                .over_time
                .iter()
                .map(|week| (self.pick)(series(week)[index].1).map(|v| (plot.x(week), value.at(v))))
                .collect();
            canvas.path(points.iter().copied(), &format!("series {name}"));
            labels.extend(points.iter().rev().flatten().next().map(|(x, y)| (*x, *y, name)));
        }
        for (x, y, name) in apart(labels, 13.0) {
            canvas.text((x + 7.0, y + 4.0), Anchor::Start, &format!("name {name}"), name);
        }
        self.tips(&mut canvas, report, &plot);
        canvas.finish(&self.label(report))
    }

    /// Invisible columns that carry a tooltip each: easier to hit than a line.
    fn tips(&self, canvas: &mut Canvas, report: &Report, plot: &Plot) {
        let width = plot.time.at(plot.time.low + 7.0) - plot.time.from;
        for week in &report.over_time {
            let [lookup, frozen, live] = series(week).map(|(_, m)| metric((self.pick)(m)));
            let tip = format!(
                "Week of {}, {}: loop {live}, frozen {frozen}, lookup {lookup}; {} flights",
                day(week.week_start),
                short_version(week.live_model),
                count(week.rows)
            );
            canvas.rect((plot.x(week) - width / 2.0, plot.top), (width, plot.bottom - plot.top), "hit", Some(&tip));
        }
    }

    fn label(&self, report: &Report) -> String {
        let mean = |index: usize| {
            let values: Vec<f64> = report.over_time.iter().filter_map(|w| (self.pick)(series(w)[index].1)).collect();
            metric((!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
        };
        format!(
            "{} by week ({}). Mean of {} weeks: loop {}, frozen {}, lookup {}. The table below holds every value.",
            self.name,
            self.better,
            report.over_time.len(),
            mean(2),
            mean(1),
            mean(0)
        )
    }

    fn table(&self, report: &Report) -> Table {
        let mut table = Table::new(&["Week of", "Model", "#Loop", "#Frozen", "#Lookup", "#Flights"]);
        for week in &report.over_time {
            let [lookup, frozen, live] = series(week).map(|(_, m)| metric((self.pick)(m)));
            table.row([day(week.week_start), week.live_model.to_string(), live, frozen, lookup, count(week.rows)]);
        }
        table
    }
}

/// Moves labels apart, keeping their order.
fn apart(mut labels: Vec<(f64, f64, &'static str)>, least: f64) -> Vec<(f64, f64, &'static str)> {
    labels.sort_by(|a, b| a.1.total_cmp(&b.1));
    for index in 1..labels.len() {
        labels[index].1 = labels[index].1.max(labels[index - 1].1 + least);
    }
    labels
}

fn gain_of(week: &Week) -> Option<f64> {
    Some(week.live_loop.roc_auc? - week.frozen.roc_auc?)
}

fn gain(report: &Report, frame: Frame) -> String {
    let plot = Plot::new(report, frame, frame.pick(190.0, 160.0), frame.pick(58.0, 54.0));
    let mut canvas = Canvas::new(frame.width(), plot.height());
    plot.models(&mut canvas, report);
    let (low, high) = extent(report.over_time.iter().filter_map(gain_of).chain([0.0])).unwrap_or((-0.01, 0.01));
    let value = Scale { low, high, from: plot.bottom, to: plot.top };
    plot.grid(&mut canvas, &value, 4, 2, &|tick, places| {
        if tick == 0.0 { "0".into() } else { format!("{tick:+.places$}").replace('-', "\u{2212}") }
    });
    plot.months(&mut canvas);
    let width = (plot.time.at(plot.time.low + 7.0) - plot.time.from) * 0.7;
    let zero = value.at(0.0);
    for week in &report.over_time {
        let Some(gained) = gain_of(week) else { continue };
        let (y, class) = (value.at(gained), if gained >= 0.0 { "bar gain" } else { "bar loss" });
        let tip = format!("Week of {}: {}", day(week.week_start), signed(gained));
        canvas.rect((plot.x(week) - width / 2.0, y.min(zero)), (width, (y - zero).abs()), class, Some(&tip));
    }
    canvas.line((plot.time.from, zero), (plot.time.to, zero), "axis");
    let better = report.over_time.iter().filter_map(gain_of).filter(|gained| *gained > 0.0).count();
    let judged = report.over_time.iter().filter_map(gain_of).count();
    canvas.finish(&format!(
        "Difference of ROC-AUC by week, loop minus frozen: the loop ranked better in {better} of {judged} weeks."
    ))
}

fn gain_table(report: &Report) -> Table {
    let mut table = Table::new(&["Week of", "Model", "#Loop minus frozen"]);
    for week in &report.over_time {
        let gained = gain_of(week).map_or_else(|| "–".to_owned(), signed);
        table.row([day(week.week_start), week.live_model.to_string(), gained]);
    }
    table
}

fn share(report: &Report, frame: Frame) -> String {
    let plot = Plot::new(report, frame, frame.pick(150.0, 140.0), frame.pick(58.0, 54.0));
    let mut canvas = Canvas::new(frame.width(), plot.height());
    plot.models(&mut canvas, report);
    let high = report.over_time.iter().filter_map(|w| w.delayed_share).fold(0.1, f64::max);
    let value = Scale { low: 0.0, high, from: plot.bottom, to: plot.top };
    plot.grid(&mut canvas, &value, 3, 2, &|tick, places| format!("{:.*} %", places - 2, tick * 100.0));
    let width = (plot.time.at(plot.time.low + 7.0) - plot.time.from) * 0.7;
    for week in &report.over_time {
        let Some(delayed) = week.delayed_share else { continue };
        let y = value.at(delayed);
        let tip =
            format!("Week of {}: {} of {} flights", day(week.week_start), percent(Some(delayed)), count(week.rows));
        canvas.rect((plot.x(week) - width / 2.0, y), (width, plot.bottom - y), "bar plain", Some(&tip));
    }
    plot.months(&mut canvas);
    canvas.finish(&format!("Share of flights delayed by week, at most {}.", percent(Some(high))))
}

fn share_table(report: &Report) -> Table {
    let mut table = Table::new(&["Week of", "#Delayed", "#Flights"]);
    for week in &report.over_time {
        table.row([day(week.week_start), percent(week.delayed_share), count(week.rows)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_overlap_are_moved_apart_in_order() {
        let moved = apart(vec![(0.0, 50.0, "b"), (0.0, 48.0, "a"), (0.0, 90.0, "c")], 13.0);
        assert_eq!(moved.iter().map(|l| (l.1, l.2)).collect::<Vec<_>>(), [(48.0, "a"), (61.0, "b"), (90.0, "c")]);
    }
}
