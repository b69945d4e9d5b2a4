//! Samples taken at one scrape, as the families of Prometheus' text format.

use std::collections::BTreeMap;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType};

use super::catalogue::{Kind, Metric};

/// The samples of one scrape.
#[derive(Debug, Default)]
pub(super) struct Page(BTreeMap<&'static str, (&'static Metric, Vec<Sample>)>);

impl Page {
    /// Notes a sample; label values in the order of the catalogue.
    pub(super) fn put(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let pairs = metric.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut sample = Sample::from_label(pairs.collect());
        if metric.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.0.entry(metric.name).or_insert_with(|| (metric, Vec::new())).1.push(sample);
    }

    /// Notes a sample where there is a value.
    pub(super) fn put_some(&mut self, metric: &'static Metric, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.put(metric, labels, value);
        }
    }

    /// One of a closed set holds: 1 for it, 0 for the others.
    pub(super) fn put_state(&mut self, metric: &'static Metric, before: &[&str], all: &[&str], holds: &str) {
        for state in all {
            let labels: Vec<&str> = before.iter().copied().chain([*state]).collect();
            self.put(metric, &labels, f64::from(u8::from(*state == holds)));
        }
    }

    /// Everything noted, by name.
    pub(super) fn families(self) -> Vec<MetricFamily> {
        self.0
            .into_iter()
            .map(|(name, (metric, samples))| {
                let mut family = MetricFamily::default();
                family.set_name(name.to_owned());
                family.set_help(metric.help.to_owned());
                let counter = metric.kind == Kind::Counter;
                family.set_field_type(if counter { MetricType::COUNTER } else { MetricType::GAUGE });
                family.set_metric(samples);
                family
            })
            .collect()
    }
}
