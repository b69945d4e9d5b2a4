//! Whether "30 %" means thirty in a hundred.

use super::svg::{Anchor, Canvas, Frame, Scale};
use super::{Figure, Table};
use crate::replay::report::format::{count, metric, percent};
use crate::replay::report::model::{ReliabilityBin, Report};

/// From how many flights on a bin's share is more than noise, and joins the line.
const LEAST_ROWS: u64 = 20;

/// The diagram with its table; empty without flights.
pub(super) fn chart(report: &Report) -> String {
    if report.live_loop.rows == 0 {
        return "<p class=\"none\">No flight with an outcome.</p>".into();
    }
    Figure {
        title: "Score against what happened",
        caption: "Flights in 15 bins by their score; on the dashed diagonal a score means what it says. Dots grow with the \
                  flights in the bin, and the line leaves out bins with fewer than 20; the bars below count the loop\u{2019}s.",
        key: "",
        beside: true,
        drawn: (draw(report, Frame::Wide), draw(report, Frame::Narrow)),
        table: table(report),
    }
    .html()
}

fn draw(report: &Report, frame: Frame) -> String {
    let side = frame.pick(430.0, 300.0);
    let left = frame.pick(54.0, 44.0);
    let (top, bars) = (10.0, 54.0);
    let mut canvas = Canvas::new(left + side + frame.pick(40.0, 26.0), top + side + bars + 56.0);
    let x = Scale { low: 0.0, high: 1.0, from: left, to: left + side };
    let y = Scale { low: 0.0, high: 1.0, from: top + side, to: top };
    for tick in [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] {
        canvas.line((left, y.at(tick)), (left + side, y.at(tick)), "grid");
        let text = format!("{:.0}", tick * 100.0);
        canvas.text((left - 7.0, y.at(tick) + 4.0), Anchor::End, "tick", &text);
        canvas.text((x.at(tick), top + side + bars + 26.0), Anchor::Middle, "tick", &text);
    }
    canvas.text((left + side / 2.0, top + side + bars + 46.0), Anchor::Middle, "label", "score, %");
    canvas.text((left + 8.0, top + 16.0), Anchor::Start, "label", "delayed, %");
    canvas.line((x.at(0.0), y.at(0.0)), (x.at(1.0), y.at(1.0)), "diagonal");
    let most = report.reliability.live_loop.iter().map(|bin| bin.rows).max().unwrap_or(1).max(1) as f64;
    for (name, bins) in [("frozen", &report.reliability.frozen), ("loop", &report.reliability.live_loop)] {
        curve(&mut canvas, name, bins, (&x, &y), most);
    }
    let floor = top + side + bars + 8.0;
    for (index, bin) in report.reliability.live_loop.iter().enumerate() {
        let step = side / report.reliability.live_loop.len() as f64;
        let height = bars * bin.rows as f64 / most;
        let place = (left + step * index as f64 + 1.0, floor - height);
        canvas.rect(place, (step - 2.0, height), "bar plain", Some(&format!("{} flights", count(bin.rows))));
    }
    canvas.line((left, floor), (left + side, floor), "axis");
    let ece = [&report.live_loop, &report.frozen].map(|m| metric(m.ece));
    canvas.finish(&format!("Reliability diagram. Expected calibration error: loop {}, frozen {}.", ece[0], ece[1]))
}

fn curve(canvas: &mut Canvas, name: &str, bins: &[ReliabilityBin], (x, y): (&Scale, &Scale), most: f64) {
    let place = |bin: &ReliabilityBin| Some((x.at(bin.mean_score?), y.at(bin.observed_share?)));
    canvas.path(bins.iter().filter(|bin| bin.rows >= LEAST_ROWS).map(place), &format!("series {name}"));
    for bin in bins {
        let Some(at) = place(bin) else { continue };
        let tip = format!(
            "{name}: score {}, delayed {}, {} flights",
            percent(bin.mean_score),
            percent(bin.observed_share),
            count(bin.rows)
        );
        canvas.circle(at, 2.0 + 4.0 * (bin.rows as f64 / most).sqrt(), &format!("dot {name}"), Some(&tip));
    }
    if let Some((right, height)) = bins.iter().rev().filter(|bin| bin.rows >= LEAST_ROWS).find_map(place) {
        // The two curves may end close to each other: one name a little higher, one lower.
        let shift = if name == "loop" { 0.0 } else { 8.0 };
        canvas.text((right + 9.0, height + shift), Anchor::Start, &format!("name {name}"), name);
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        "Score, %",
        "#Loop: mean, %",
        "#delayed, %",
        "#flights",
        "#Frozen: mean, %",
        "#delayed, %",
        "#flights",
    ]);
    let bins = report.reliability.live_loop.len() as f64;
    for (index, (live, frozen)) in report.reliability.live_loop.iter().zip(&report.reliability.frozen).enumerate() {
        let edge = |n: usize| format!("{:.0}", 100.0 * n as f64 / bins);
        let three =
            |bin: &ReliabilityBin| [hundredths(bin.mean_score), hundredths(bin.observed_share), count(bin.rows)];
        let row = std::iter::once(format!("{}–{}", edge(index), edge(index + 1)));
        table.row(row.chain(three(live)).chain(three(frozen)));
    }
    table
}

fn hundredths(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1}", share * 100.0))
}
