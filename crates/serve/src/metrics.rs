//! `GET /metrics`, in Prometheus' text format. Written here and not by a
//! library, because the counts live in the workers' shards.

use std::fmt::{self, Write};
use std::sync::atomic::Ordering;

use actix_web::HttpResponse;
use actix_web::web::Data;
use delayd_http_limits::CloseReason;
use delayd_model::DriftReference;
use delayd_model::admin::{LatencyHistogram, ReplicaPhase};

use crate::counters::{CLASSES, Counts, METHODS, Route};
use crate::replica::{Replica, Worker, resident_memory_bytes};

/// Media type of the text format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) async fn scrape(worker: Data<Worker>) -> HttpResponse {
    let mut text = String::with_capacity(16 << 10);
    match write_all(&mut text, &worker.replica) {
        Ok(()) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        // Writing to a string does not fail.
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

fn write_all(text: &mut String, replica: &Replica) -> fmt::Result {
    let counts = replica.counters.total();
    write_requests(text, &counts)?;
    write_predictions(text, replica, &counts)?;
    write_replica(text, replica)
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn single(text: &mut String, name: &str, kind: &str, help: &str, value: impl fmt::Display) -> fmt::Result {
    head(text, name, kind, help)?;
    writeln!(text, "{name} {value}")
}

fn write_requests(text: &mut String, counts: &Counts) -> fmt::Result {
    let name = "delayd_serve_requests_total";
    head(text, name, "counter", "Requests answered, by route, method and class of status.")?;
    for route in Route::ALL {
        for (method, classes) in METHODS.iter().zip(&counts.requests[route as usize]) {
            for (class, count) in CLASSES.iter().zip(classes).filter(|(_, count)| **count > 0) {
                let route = route.label();
                writeln!(text, "{name}{{route=\"{route}\",method=\"{method}\",status=\"{class}\"}} {count}")?;
            }
        }
    }
    let name = "delayd_serve_request_duration_seconds";
    head(text, name, "histogram", "Time from a request's head to its answer, by route.")?;
    for route in Route::ALL {
        let durations = &counts.durations[route as usize];
        if durations.count() > 0 {
            write_histogram(text, name, &format!("route=\"{}\"", route.label()), durations)?;
        }
    }
    write_traffic(text, counts)
}

/// What clients were answered, probes apart: what a service-level objective is about.
fn write_traffic(text: &mut String, counts: &Counts) -> fmt::Result {
    let name = "delayd_serve_prediction_requests_total";
    head(text, name, "counter", "Prediction requests of clients, probes apart, by result.")?;
    let traffic = &counts.traffic;
    for (result, count) in
        [("ok", traffic.ok), ("client_error", traffic.client_errors), ("server_error", traffic.server_errors)]
    {
        writeln!(text, "{name}{{result=\"{result}\"}} {count}")?;
    }
    let name = "delayd_serve_prediction_duration_seconds";
    head(text, name, "histogram", "Time to answer a client's prediction request, probes apart.")?;
    write_histogram(text, name, "", &counts.traffic_latency)
}

/// `label` is empty, or one label as in `route="/predict"`.
fn write_histogram(text: &mut String, name: &str, label: &str, histogram: &LatencyHistogram) -> fmt::Result {
    let (before_le, own) =
        if label.is_empty() { (String::new(), String::new()) } else { (format!("{label},"), format!("{{{label}}}")) };
    let mut cumulative = 0;
    for (bound, count) in histogram.bounds_secs.iter().zip(&histogram.counts) {
        cumulative += count;
        writeln!(text, "{name}_bucket{{{before_le}le=\"{bound}\"}} {cumulative}")?;
    }
    let count = histogram.count();
    writeln!(text, "{name}_bucket{{{before_le}le=\"+Inf\"}} {count}")?;
    writeln!(text, "{name}_sum{own} {}", histogram.sum_secs)?;
    writeln!(text, "{name}_count{own} {count}")
}

fn write_predictions(text: &mut String, replica: &Replica, counts: &Counts) -> fmt::Result {
    let rows = counts.sketch.rows;
    single(text, "delayd_serve_prediction_rows_total", "counter", "Flights predicted, probes apart.", rows)?;
    let help = "Flights predicted to be delayed, probes apart.";
    single(text, "delayd_serve_predicted_delays_total", "counter", help, counts.delayed_rows)?;
    let help = "Flights predicted for probes.";
    single(text, "delayd_serve_probe_rows_total", "counter", help, counts.probe_rows)?;

    let name = "delayd_serve_prediction_score";
    head(text, name, "histogram", "Calibrated probabilities of delay, probes apart.")?;
    let mut cumulative = 0;
    for (bin, count) in counts.sketch.scores.iter().enumerate().take(DriftReference::SCORE_BINS - 1) {
        cumulative += count;
        let bound = (bin + 1) as f64 / DriftReference::SCORE_BINS as f64;
        writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {cumulative}")?;
    }
    writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {rows}\n{name}_sum {}\n{name}_count {rows}", counts.score_sum)?;

    let name = "delayd_serve_unknown_category_rows_total";
    head(text, name, "counter", "Flights whose value of a category the model has not seen.")?;
    for input in &replica.model.categories {
        let count = counts.unknown.get(*input as usize).copied().unwrap_or(0);
        writeln!(text, "{name}{{category=\"{}\"}} {count}", input.name())?;
    }
    Ok(())
}

fn write_replica(text: &mut String, replica: &Replica) -> fmt::Result {
    let gauges = &replica.counters;
    let in_flight = gauges.in_flight.load(Ordering::SeqCst);
    single(text, "delayd_serve_requests_in_flight", "gauge", "Requests being answered.", in_flight)?;
    let connections = replica.public_connections.open();
    single(text, "delayd_serve_connections", "gauge", "Open connections to the public address.", connections)?;
    write_closed(text, replica)?;
    let help = "Memory held by bodies that are being received and read.";
    single(text, "delayd_serve_body_memory_bytes", "gauge", help, replica.body_memory.held_bytes())?;
    let ready = u8::from(replica.phase() == ReplicaPhase::Ready);
    single(text, "delayd_serve_ready", "gauge", "Whether the replica is ready.", ready)?;

    let model = &replica.model;
    let name = "delayd_serve_model_info";
    head(text, name, "gauge", "The model that is served; always 1.")?;
    writeln!(
        text,
        "{name}{{model_version=\"{}\",bundle=\"{}\",feature_hash=\"{}\",replica=\"{}\"}} 1",
        escaped(&model.version),
        model.bundle,
        model.feature_hash,
        escaped(&replica.name)
    )?;
    let name = "delayd_serve_build_info";
    head(text, name, "gauge", "The service's build; always 1.")?;
    writeln!(text, "{name}{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))?;
    write_process(text)?;
    let started = replica.started_at.timestamp_millis() as f64 / 1000.0;
    single(text, "process_start_time_seconds", "gauge", "Start of the replica, in seconds since 1970.", started)
}

fn write_closed(text: &mut String, replica: &Replica) -> fmt::Result {
    let name = "delayd_serve_connections_closed_total";
    head(text, name, "counter", "Connections closed by a limit, by listener and reason.")?;
    for (listener, connections) in [("public", &replica.public_connections), ("admin", &replica.admin_connections)] {
        for reason in CloseReason::ALL {
            let count = connections.closed(reason);
            writeln!(text, "{name}{{listener=\"{listener}\",reason=\"{}\"}} {count}", reason.label())?;
        }
    }
    Ok(())
}

/// What the kernel says of this process, where it says it.
fn write_process(text: &mut String) -> fmt::Result {
    if let Some(bytes) = resident_memory_bytes() {
        single(text, "process_resident_memory_bytes", "gauge", "Resident memory.", bytes)?;
    }
    if let Some(secs) = processor_secs() {
        single(text, "process_cpu_seconds_total", "counter", "Processor time, user and system.", secs)?;
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the folder being read.
        let open = open.count().saturating_sub(1);
        single(text, "process_open_fds", "gauge", "Open file descriptors.", open)?;
    }
    Ok(())
}

/// Fields 14 and 15 of `/proc/self/stat` (proc(5)), in clock ticks of a hundredth of a second.
fn processor_secs() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command's name may hold anything; its closing bracket ends field 2.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

/// A label's value: backslash, quote and newline are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
