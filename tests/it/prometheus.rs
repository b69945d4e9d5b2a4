//! A real Prometheus (Debian's) with the shipped rules beside a real daemon and a
//! real replica: it scrapes both, agrees with every metric, rule and query of the
//! dashboard, and an alert fires when the live model's traffic drifts.
//!
//! Needs `prometheus` and `promtool` (`scripts/setup/packages test`) and what `site`
//! needs. Without them the tests say SKIPPED and pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::Timelike;
use delayd::http::catalogue;
use delayd_core::clock::{Clock, SystemClock};
use delayd_testkit::ci::has;
use delayd_testkit::site::{NEVER, QUICK, Running, Site, cluster_state, needs, tail};
use delayd_testkit::tools::{free_port, get, post_json};
use serde_json::{Value, json};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn promtool(folder: &Path, arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}:\n{told}");
    // `check metrics` tells what it does not like by words, too.
    assert!(arguments[1] != "metrics" || told.trim().is_empty(), "promtool {arguments:?}:\n{told}");
}

// ---------------------------------------------------------------- what is shipped

#[test]
fn promtool_agrees_with_rules_configurations_and_the_tests_of_every_alert() {
    if !has("promtool_agrees_with_rules_configurations_and_the_tests_of_every_alert", "promtool", "prometheus") {
        return;
    }
    let folder = repository().join("config/prometheus");
    promtool(&folder, &["check", "rules", "rules/recording.yml", "rules/service.yml", "rules/daemon.yml"], "");
    promtool(&folder, &["check", "config", "prometheus.yml"], "");
    // Debian's build knows no Kubernetes: all else of that file is checked.
    let text = fs::read_to_string(folder.join("prometheus-kubernetes.yml")).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    for job in config["scrape_configs"].as_array_mut().unwrap() {
        let discovery = job.as_object_mut().unwrap().remove("kubernetes_sd_configs").expect("it is for Kubernetes");
        assert_eq!(discovery[0]["role"], "pod");
    }
    config["rule_files"] = json!([folder.join("rules/*.yml")]);
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("kubernetes.yml"), config.to_string()).unwrap();
    promtool(place.path(), &["check", "config", "kubernetes.yml"], "");
    let tests = ["daemon.yml", "daemon_days.yml", "service.yml", "service_days.yml"];
    let arguments: Vec<&str> = ["test", "rules"].into_iter().chain(tests).collect();
    promtool(&folder.join("tests"), &arguments, "");
}

// ---------------------------------------------------------------- a real scrape

/// Debian's Prometheus with the shipped configuration and rules.
struct Prometheus {
    running: Running,
    address: String,
}

impl Prometheus {
    fn start(place: &Path, daemon_port: u16) -> Self {
        let shipped = repository().join("config/prometheus");
        let config = fs::read_to_string(shipped.join("prometheus.yml")).unwrap();
        let config = config
            .replace("127.0.0.1:7070", &format!("127.0.0.1:{daemon_port}"))
            .replace(": 15s", ": 1s")
            .replace("rules/*.yml", &format!("{}/rules/*.yml", shipped.display()));
        let path = place.join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!("--storage.tsdb.path={}", place.join("tsdb").display()));
        command.arg(format!("--web.listen-address={address}"));
        // `Running` sees to replicas too: of a folder that has none.
        let running = Running::start(command, &place.join("no-state"), &place.join("prometheus.log"));
        Self { running, address }
    }

    fn api(&self, path: &str) -> Option<Value> {
        let (_, body) = get(&self.address, path)?;
        serde_json::from_str(&body).ok()
    }

    /// The samples of an instant query, by their labels as JSON.
    fn query(&self, query: &str) -> Result<Vec<(Value, f64)>, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.api(&format!("/api/v1/query?query={encoded}")).ok_or("no answer")?;
        if answer["status"] != "success" {
            return Err(answer.to_string());
        }
        let samples = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |sample: &Value| sample["value"][1].as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        Ok(samples.iter().map(|sample| (sample["metric"].clone(), value(sample))).collect())
    }

    fn wait(&mut self, what: &str, limit: Duration, mut look: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        while !look(self) {
            assert!(
                self.running.child.try_wait().unwrap().is_none(),
                "Prometheus ended while waiting until {what}:\n{}",
                tail(&self.running.log)
            );
            assert!(
                began.elapsed() < limit,
                "waited {limit:?} in vain until {what}: {:?}\n{}",
                self.query("up"),
                tail(&self.running.log)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A day of the monitor's ends within two minutes, and not before forty seconds: one day of traffic is enough to judge.
fn one_day_is_enough(port: u16) -> (String, Duration) {
    let now = SystemClock.now();
    let ahead = if now.second() < 20 { 1 } else { 2 };
    let minute = now.hour() * 60 + now.minute() + ahead;
    let until = Duration::from_secs(u64::from(60 * ahead - now.second()));
    let config = format!(
        "{}{NEVER}\n[monitoring.drift]\nwindow_days = 7\nminimum_days = 1\nminimum_rows = 200\n\
         persistent_windows = 1\nof_last_windows = 1\n",
        QUICK
            .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
            .replace("[monitoring]\n", &format!("[monitoring]\nday_starts_minutes_utc = {}\n", minute % 1440))
    );
    (config, until)
}

/// Asks about flights such as the model has never seen: one carrier, one route, at night.
fn unlike_anything(site: &Site, flights: usize) {
    let port = cluster_state(&site.state())["public_port"].as_u64().unwrap();
    for batch in 0..flights / 100 {
        let flights: Vec<Value> = (0..100)
            .map(|number| {
                json!({
                    "carrier": "HA", "flight_number": 1 + number, "origin": "JFK", "dest": "HNL",
                    "scheduled_departure": format!("2013-02-04T08:{:02}:00Z", (batch + number) % 60),
                    "scheduled_arrival": "2013-02-04T19:15:00Z", "distance_miles": 4983.0, "context": {},
                })
            })
            .collect();
        let body = json!({ "flights": flights }).to_string();
        let (status, answer) = post_json(format!("127.0.0.1:{port}"), "/predict", &body).unwrap();
        assert_eq!(status, 200, "{answer}");
    }
}

/// Name and type of every metric of a page in the text format.
fn exposed(page: &str) -> BTreeMap<&str, &str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

/// The same, as a section of docs/metrics.md has it.
fn documented_in(from: &str, until: Option<&str>) -> BTreeMap<String, String> {
    let page = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let section = page.split_once(from).unwrap().1;
    let section = until.map_or(section, |until| section.split_once(until).unwrap().0);
    section
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
        })
        .collect()
}

fn assert_documented(what: &str, page: &str, documented: &BTreeMap<String, String>) {
    for (name, kind) in exposed(page) {
        assert_eq!(documented.get(name).map(String::as_str), Some(kind), "{what}: {name} in docs/metrics.md");
    }
}

#[test]
fn prometheus_scrapes_daemon_and_replica_and_an_alert_fires_on_drift() {
    const TEST: &str = "prometheus_scrapes_daemon_and_replica_and_an_alert_fires_on_drift";
    let Some(needs) = needs(TEST) else { return };
    if !has(TEST, "prometheus", "prometheus") || !has(TEST, "promtool", "prometheus") {
        return;
    }
    let site = Site::with_history(&needs);
    let mut daemon = site.start();
    site.wait_for_the_cycle(&mut daemon);
    site.stop(daemon);

    // The same state under another configuration: what the monitor remembers has the old day in it.
    let ledger = rusqlite::Connection::open(site.state().join("ledger.sqlite")).unwrap();
    ledger.execute("DELETE FROM settings WHERE name = 'monitor'", []).unwrap();
    drop(ledger);
    let port = free_port();
    let (config, day_ends_in) = one_day_is_enough(port);
    fs::write(site.config(), config).unwrap();
    let began = Instant::now();
    let mut daemon = site.start();
    let address = format!("127.0.0.1:{port}");
    site.wait(&mut daemon, "the daemon answers", || get(&address, "/metrics").filter(|(status, _)| *status == 200));

    let mut prometheus = Prometheus::start(site.place.path(), port);
    for job in ["delayd", "delayd-serve"] {
        prometheus.wait(&format!("{job} is scraped"), Duration::from_secs(60), |prometheus| {
            prometheus.query(&format!("up{{job=\"{job}\"}} == 1")).is_ok_and(|found| !found.is_empty())
        });
    }
    let firing = "ALERTS{alertname=\"DelaydDrifted\",alertstate=\"firing\"}";
    assert_eq!(prometheus.query(firing), Ok(Vec::new()), "it fires before there is any drift");

    unlike_anything(&site, 2000);
    pages_are_well_formed(&address);

    let left = day_ends_in.saturating_sub(began.elapsed()) + Duration::from_secs(60);
    prometheus
        .wait("the drift alert fires", left, |prometheus| prometheus.query(firing).is_ok_and(|found| found.len() == 1));
    let alerts = prometheus.api("/api/v1/alerts").unwrap();
    let alerts = alerts["data"]["alerts"].as_array().unwrap().clone();
    let drifted = alerts.iter().find(|alert| alert["labels"]["alertname"] == "DelaydDrifted").unwrap();
    assert_eq!(drifted["annotations"]["runbook_url"], "docs/operations.md#delayddrifted", "{drifted}");
    let sizes = prometheus.query("delayd_drift_effect_size{feature=\"carrier\"} > 0.2").unwrap();
    assert_eq!(sizes.len(), 1, "{:?}", prometheus.query("delayd_drift_effect_size"));
    queries_are_answered(&prometheus);
    site.stop(daemon);
}

fn pages_are_well_formed(daemon: &str) {
    let (_, page) = get(daemon, "/metrics").unwrap();
    promtool(&repository(), &["check", "metrics"], &page);
    let known = documented_in("## The daemon", Some("## The inference service"));
    assert_documented("the daemon", &page, &known);
    assert!(exposed(&page).len() > 60, "{:?}", exposed(&page).keys());
    assert!(page.contains("delayd_live_model_version 1"), "{page}");
    assert!(page.contains("delayd_scrape_errors_total{source=\"cluster\"} 0"), "{page}");
    let route = "delayd_http_requests_total{method=\"GET\",route=\"/metrics\",status=\"2xx\"}";
    assert!(page.contains(route), "{page}");

    let (_, targets) = get(daemon, "/metrics/targets").unwrap();
    let targets: Value = serde_json::from_str(&targets).unwrap();
    let replica = targets[0]["targets"][0].as_str().unwrap_or_else(|| panic!("{targets}")).to_owned();
    let (_, page) = get(&replica, "/metrics").unwrap();
    promtool(&repository(), &["check", "metrics"], &page);
    let known = documented_in("## The inference service", None);
    assert_documented("the replica", &page, &known);
    let missing: BTreeSet<&String> = known.keys().filter(|name| !exposed(&page).contains_key(name.as_str())).collect();
    assert!(missing.is_empty(), "the replica does not expose {missing:?}");
}

/// Every rule is healthy, and every query of the dashboard is one that Prometheus can answer.
fn queries_are_answered(prometheus: &Prometheus) {
    let rules = prometheus.api("/api/v1/rules").unwrap();
    let mut count = 0;
    for group in rules["data"]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            assert_ne!(rule["health"], "err", "{rule}");
            count += 1;
        }
    }
    assert!(count > 60, "{count} rules");
    let dashboard = fs::read_to_string(repository().join("config/grafana/delayd.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let (mut queries, mut without_data) = (0, Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$__range", "1h")
                .replace("$job", "delayd")
                .replace("$instance", ".*");
            let found = prometheus.query(&query);
            let found = found.unwrap_or_else(|error| panic!("panel {}: {query}: {error}", panel["title"]));
            queries += 1;
            if found.is_empty() {
                without_data.push(format!("{}: {query}", panel["title"]));
            }
        }
    }
    eprintln!("{} of the dashboard's {queries} queries have no data yet: {without_data:#?}", without_data.len());
    // What needs outcomes, a failure or days of traffic has none here.
    assert!(queries > 30 && without_data.len() * 2 < queries, "{} of {queries}: {without_data:#?}", without_data.len());
}

// ----------------------------------------------------------------
// What is written about metrics and alerts is true: the page of metrics against
// the code, rules and dashboard against the page, the run book against the rules.
// Whether Prometheus itself agrees is tested above.

fn text(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in the first column of the page's tables.
fn documented() -> BTreeSet<String> {
    let page = text("docs/metrics.md");
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect()
}

/// Every name that looks like a metric of ours in a rule or a query.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = |word: &&str| ["delayd_", "delayd:", "process_"].iter().any(|head| word.starts_with(head));
    words.filter(ours).map(str::to_owned).collect()
}

/// A metric's name without what a histogram adds to it.
fn base<'a>(name: &'a str, documented: &BTreeSet<String>) -> &'a str {
    let stripped = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    stripped.filter(|stripped| documented.contains(*stripped)).unwrap_or(name)
}

fn assert_known(place: &str, names: &BTreeSet<String>, recorded: &BTreeSet<String>) {
    let documented = documented();
    for name in names {
        let known = documented.contains(base(name, &documented)) || recorded.contains(name);
        assert!(known, "{place} names {name}, which is neither in docs/metrics.md nor recorded");
    }
}

fn values_of<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(key))
        .map(str::trim)
        .collect()
}

fn recorded() -> BTreeSet<String> {
    values_of(&text("config/prometheus/rules/recording.yml"), "record:").into_iter().map(str::to_owned).collect()
}

#[test]
fn the_page_of_metrics_says_what_the_code_does() {
    let (begin, end) = ("<!-- daemon -->\n", "<!-- /daemon -->");
    let page = text("docs/metrics.md");
    let (before, rest) = page.split_once(begin).expect("the page has a place for the tables");
    let (_, after) = rest.split_once(end).expect("the page's place for the tables has an end");
    let wanted = format!("{before}{begin}{}\n{end}{after}", catalogue::tables());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(repository().join("docs/metrics.md"), &wanted).unwrap();
    } else {
        assert!(page == wanted, "docs/metrics.md is not what the code says; write it with UPDATE_DOCS=1");
    }
}

#[test]
fn rules_and_dashboard_use_only_metrics_that_exist() {
    let recorded = recorded();
    assert!(recorded.len() > 15, "{recorded:?}");
    for rules in ["recording", "service", "daemon"] {
        let place = format!("config/prometheus/rules/{rules}.yml");
        let rules: serde_json::Value = serde_saphyr::from_str(&text(&place)).unwrap();
        let mut expressions = Vec::new();
        collect_expressions(&rules, &mut expressions);
        let names = mentioned(&expressions.join("\n"));
        assert!(names.len() > 5, "{place}: {names:?}");
        assert_known(&place, &names, &recorded);
    }
    let dashboard: serde_json::Value = serde_json::from_str(&text("config/grafana/delayd.json")).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&dashboard, &mut expressions);
    assert!(expressions.len() > 30, "{} queries", expressions.len());
    assert_known("config/grafana/delayd.json", &mentioned(&expressions.join("\n")), &recorded);
}

fn collect_expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(text) if name == "expr" => found.push(text.clone()),
                    other => collect_expressions(other, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_expressions(value, found)),
        _ => {}
    }
}

#[test]
fn every_alert_has_its_words_its_page_in_the_run_book_and_a_test() {
    let operations = text("docs/operations.md");
    let mut count = 0;
    for file in ["service", "daemon"] {
        let rules = text(&format!("config/prometheus/rules/{file}.yml"));
        let tests: String =
            ["", "_days"].map(|kind| text(&format!("config/prometheus/tests/{file}{kind}.yml"))).concat();
        for rule in rules.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap().trim();
            for part in ["severity: ", "summary: ", "description: "] {
                assert!(rule.contains(part), "{name} has no {part}");
            }
            let page = format!("runbook_url: docs/operations.md#{}", name.to_lowercase());
            assert!(rule.contains(&page), "{name} does not point to its section");
            let section = operations.split(&format!("\n### {name}\n")).nth(1);
            let section = section.unwrap_or_else(|| panic!("the run book has no section for {name}"));
            let section = section.split("\n### ").next().unwrap();
            for part in ["- Meaning: ", "- Impact: ", "- Mitigation: ", "- Diagnosis:\n\n```sh\n"] {
                assert!(section.contains(part), "the run book's section for {name} has no `{part}`");
            }
            let fires = [format!("alertname=\"{name}\""), format!("alertname: {name}")];
            assert!(fires.iter().any(|fires| tests.contains(fires)), "no test sees {name} fire");
            count += 1;
        }
    }
    assert!(count > 40, "{count} alerts");
}
