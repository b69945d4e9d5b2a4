//! The page as people use it: a real chromium, a real daemon, a whole cycle.
//!
//! Pictures of every view are left in the target directory's `tmp/page` where `DELAYD_TEST_PICTURES` is set.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one binary")]

mod browser;
mod monitoring;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use delayd_core::clock::{Clock, SystemClock};
use delayd_core::ports::Severity;
use delayd_ledger::NewAlert;
use delayd_testkit::receiver::Receiver;
use delayd_testkit::records;
use delayd_testkit::site::{CYCLE_LIMIT, DatalessDaemon, NEVER, QUICK, Running, Site, needs, tail};
use delayd_testkit::tools::free_address;
use fantoccini::key::Key;
use rusqlite::OptionalExtension;
use serde_json::json;

use crate::browser::{Browser, DESK, NIGHT, PHONE};

const TOKEN: &str = "a token that the test's operator has";

/// `[http]` for whom this machine alone is a viewer and a token makes an operator.
fn access(address: SocketAddr) -> (String, String) {
    let endpoint = format!("[http]\nlisten = \"{address}\"\nloopback_role = \"viewer\"\n");
    let tokens = format!("[[http.tokens]]\nname = \"ops\"\nrole = \"operator\"\ntoken = \"{TOKEN}\"\n");
    (endpoint, tokens)
}

async fn listening(address: SocketAddr, log: &std::path::Path) {
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "nobody listens at {address}:\n{}", tail(log));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Text of one column of the ledger, if there is such a row.
fn told(site: &Site, query: &str) -> Option<String> {
    site.ledger()?.query_row(query, [], |row| row.get(0)).optional().unwrap_or_else(|error| panic!("{query}: {error}"))
}

fn live_model(site: &Site) -> Option<String> {
    told(site, "SELECT CAST(model AS TEXT) FROM aliases WHERE alias = 'live'")
}

/// Watches the picture until the cycle waits for approval; answers the stations that were lit.
async fn watch_the_loop(browser: &Browser, daemon: &Running) -> BTreeSet<String> {
    let mut lit = BTreeSet::new();
    let began = Instant::now();
    loop {
        let look = "const lit = document.querySelector('[data-lit]'); \
                    return [lit?.dataset.station ?? '', lit?.classList.contains('waiting') ?? false]";
        let (station, waits): (String, bool) = serde_json::from_value(browser.script(look).await).unwrap();
        lit.insert(station);
        if waits {
            lit.remove("");
            return lit;
        }
        assert!(
            began.elapsed() < CYCLE_LIMIT,
            "the cycle never waits for approval; lit: {lit:?}\n{}",
            tail(&daemon.log)
        );
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Every view on every screen: nobody stumbles, nothing sticks out, and there is a picture.
async fn look_at_everything(browser: &mut Browser, views: &[&str], prefix: &str) {
    for screen in [DESK, NIGHT, PHONE] {
        browser.look_at(screen).await;
        for view in views {
            browser.open(view).await;
            let faults = browser.faults().await;
            assert!(faults.is_empty(), "#/{view} on the {}:\n{}", screen.name, faults.join("\n"));
            let name =
                if view.is_empty() { "overview".to_owned() } else { view.replace(['/', '?', '=', '&', ':'], "-") };
            browser.picture(&format!("{prefix}-{}", &name[..name.len().min(40)])).await;
        }
    }
    browser.look_at(DESK).await;
}

async fn sign_in(browser: &mut Browser) {
    browser.press("#session").await;
    browser.write("dialog[open] input", "a token that nobody has").await;
    browser.press("dialog[open] button[type=submit]").await;
    browser.wait_for_text("dialog[open] .trouble", "does not know this token").await;
    // That the browser notes the refusal in its console is as it should be.
    let said = browser.console().await;
    assert!(said.iter().all(|line| line.contains("401")), "{said:?}");
    browser.write("dialog[open] input", TOKEN).await;
    browser.press("dialog[open] button[type=submit]").await;
    browser.wait_for_text("#session", "ops (operator)").await;
    let kept = browser.script("return [Object.values(localStorage), Object.values(sessionStorage)]").await;
    assert_eq!(kept, json!([[], [TOKEN]]), "the token is kept for the tab alone");
}

async fn a_viewer_cannot_command(browser: &mut Browser) {
    let reason = browser.wait_for_text(".commands .refused", "commands need the role operator").await;
    assert!(reason.contains("viewer"), "{reason}");
    let open = browser.script("return document.querySelectorAll('[data-command]:not([aria-disabled])').length").await;
    assert_eq!(open, json!(0), "a viewer may press a button");
    browser.press("[data-command=retrain]").await;
    assert_eq!(browser.script("return document.querySelector('dialog[open]') === null").await, json!(true));
    // Nor by going round the buttons.
    let round = "const done = arguments[arguments.length - 1]; \
                 fetch('/api/v1/pause', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' }) \
                   .then((answer) => done(answer.status))";
    assert_eq!(browser.later(round).await, json!(403));
    let said = browser.console().await;
    assert!(said.iter().all(|line| line.contains("403")), "{said:?}");
}

async fn the_skip_link_leads_past_the_navigation(browser: &mut Browser) {
    browser.open("").await;
    browser.key(Key::Tab).await;
    let focus = "return [document.activeElement.className, document.activeElement.id]";
    assert_eq!(browser.script(focus).await, json!(["skip", ""]));
    browser.key(Key::Enter).await;
    assert_eq!(browser.script("return document.activeElement.id").await, json!("main"));
    assert_eq!(browser.script("return location.hash").await, json!("#/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_two_models_live_and_one_back_in_the_browser() {
    const TEST: &str = "an_operator_takes_two_models_live_and_one_back_in_the_browser";
    let Some(needs) = needs(TEST) else { return };
    let address = free_address();
    let Some(mut browser) = Browser::start(TEST, &format!("http://{address}")).await else { return };
    let site = Site::with_history(&needs);
    let (endpoint, tokens) = access(address);
    let quick = QUICK.split_once("\n[daemon]").expect("QUICK begins with [http]").1;
    let settings = format!("{endpoint}\n[daemon]{quick}{NEVER}\n[approval]\nmode = \"manual\"\n{tokens}");
    fs::write(site.config(), settings).unwrap();
    let mut daemon = site.start();
    listening(address, &daemon.log).await;

    browser.open("").await;
    browser.wait_for_text("#live", "Live").await;
    a_viewer_cannot_command(&mut browser).await;
    sign_in(&mut browser).await;

    // The first model: the loop stops where a person must decide.
    let lit = watch_the_loop(&browser, &daemon).await;
    eprintln!("lit on the way: {lit:?}");
    assert!(lit.contains("approve"), "{lit:?}");
    let attention = browser.wait_for_text("#attention", "cycle_1 is waiting for approval").await;
    assert!(attention.contains("model_v1 already serves"), "{attention}");
    browser.picture("walk-1-waiting").await;
    let says = browser.command("approve", "the verification looks right").await;
    assert!(says.contains("model_v1 becomes live"), "{says}");
    browser.wait_for_text(".figure", "model_v1").await;
    assert_eq!(live_model(&site).as_deref(), Some("1"));
    let audit = "SELECT actor || ': ' || action || ': ' || detail FROM audit ORDER BY id DESC LIMIT 1";
    assert_eq!(told(&site, audit).unwrap(), "ops: approve: the verification looks right");
    browser.picture("walk-2-approved").await;

    // A second one, because somebody wants it; the loop is seen to move.
    let says = browser.command("retrain", "to see whether it gets better").await;
    assert!(says.contains("model_v1 keeps serving"), "{says}");
    let lit = watch_the_loop(&browser, &daemon).await;
    eprintln!("lit on the way: {lit:?}");
    assert!(lit.len() >= 4 && lit.contains("train") && lit.contains("approve"), "{lit:?}");
    let reason = told(&site, "SELECT reason FROM cycles WHERE id = 2").unwrap();
    assert!(reason.contains("ops") && reason.contains("to see whether it gets better"), "{reason}");
    browser.command("approve", "as good as the first").await;
    browser.wait_for_text(".figure", "model_v2").await;
    assert_eq!(live_model(&site).as_deref(), Some("2"));

    // And back.
    let says = browser.command("rollback", "the second one is worse after all").await;
    assert!(says.contains("model_v1 is deployed again") && says.contains("model_v2 no longer serves"), "{says}");
    browser.wait_for_text(".figure", "model_v1").await;
    assert_eq!(live_model(&site).as_deref(), Some("1"));
    browser.picture("walk-3-rolled-back").await;
    // The one taken back is no place to return to.
    let previous = told(&site, "SELECT CAST(count(*) AS TEXT) FROM aliases WHERE alias = 'previous'");
    assert_eq!(previous.as_deref(), Some("0"));

    browser.command("pause", "the night shift wants its sleep").await;
    let attention = browser.wait_for_text("#attention", "ops paused automatic cycles").await;
    assert!(attention.contains(": the night shift wants its sleep"), "{attention}");
    browser.command("resume", "morning").await;
    browser
        .wait(
            "nothing is paused",
            Duration::from_secs(20),
            "return document.querySelector('[data-command=pause]') !== null",
        )
        .await;

    // A third one that nobody wants.
    browser.command("retrain", "a last try").await;
    watch_the_loop(&browser, &daemon).await;
    let says = browser.command("reject", "no better than the others").await;
    assert!(says.contains("model_v3 is withdrawn") && says.contains("model_v1 serves again"), "{says}");
    browser
        .wait(
            "the cycle has ended",
            CYCLE_LIMIT,
            "return document.querySelector('[data-command=retrain]:not([aria-disabled])') !== null",
        )
        .await;
    assert_eq!(live_model(&site).as_deref(), Some("1"));
    let ended = told(&site, "SELECT outcome || ': ' || detail FROM cycles WHERE id = 3").unwrap();
    assert!(ended.contains("no better than the others"), "{ended}");

    browser.open("audit").await;
    let rows = browser.text("main tbody").await;
    for deed in ["approve", "retrain", "rollback", "pause", "resume", "reject"] {
        assert!(rows.contains(deed), "{deed} is not in the audit:\n{rows}");
    }

    the_skip_link_leads_past_the_navigation(&mut browser).await;
    let dataset = format!("datasets/{}", told(&site, "SELECT version FROM datasets LIMIT 1").unwrap());
    let views = [
        "",
        "cycles",
        "cycles/cycle_2",
        "decisions",
        "decisions/decision_1",
        "health",
        "performance",
        "drift",
        "deployments",
        "deployments/deployment_1",
        "models",
        "models/model_v2",
        "compare?a=model_v1&b=model_v2",
        "runs",
        "runs/run_2",
        "datasets",
        dataset.as_str(),
        "alerts",
        "alerts/alert_1",
        "audit",
    ];
    look_at_everything(&mut browser, &views, "view").await;
    views_say_what_the_ledger_knows(&mut browser).await;

    let said = browser.console().await;
    assert!(said.is_empty(), "the console says:\n{}", said.join("\n"));
    let (own, foreign) = browser.requests().await;
    assert!(own.len() > 20 && foreign.is_empty(), "{} requests to the daemon, and to others: {foreign:?}", own.len());

    // The daemon goes away, and the page says so.
    browser.open("").await;
    browser.wait_for_text("#live", "Live").await;
    daemon.child.kill().unwrap();
    browser.wait_for_text("#live", "Not live since").await;
    browser.wait_for_text("#stale", "The daemon is not answering. Data as of").await;
    browser.picture("walk-4-not-live").await;
    browser.close().await;
}

/// The particulars of each view, by words that must stand there.
async fn views_say_what_the_ledger_knows(browser: &mut Browser) {
    browser.open("cycles/cycle_2").await;
    let steps =
        browser.script("return document.querySelectorAll('table.steps tbody tr[data-state=done]').length").await;
    assert_eq!(steps, json!(10), "steps of cycle_2");
    browser.open("models/model_v2").await;
    let kinds = "return [...document.querySelectorAll('.lineage .kind')].map((kind) => kind.textContent)";
    let kinds: Vec<String> = serde_json::from_value(browser.script(kinds).await).unwrap();
    for kind in ["source", "dataset", "run", "model", "image", "deployment"] {
        assert!(kinds.iter().any(|found| found == kind), "the lineage lacks its {kind}: {kinds:?}");
    }
    browser.press(".lineage .node.dataset").await;
    browser.wait_for_text(".node-about", "Rows").await;
    let shown = browser.text("main").await;
    for told in ["Lookup table", "Always the base rate", "missing weather", "Weakest first", "p99 µs", "asked for by"]
    {
        assert!(shown.contains(told), "`{told}` is not in the view of model_v2:\n{shown}");
    }
    browser.open("models").await;
    let rolled_back = browser.text("main tbody").await.matches("rolled back").count();
    assert_eq!(rolled_back, 2, "model_v2 and model_v3 were taken back");
    browser.open("deployments").await;
    let serving = browser.text("main").await.matches("serving").count();
    assert_eq!(serving, 1, "one release serves");
    browser.open("compare?a=model_v1&b=model_v2").await;
    let shown = browser.text("main").await;
    assert!(shown.contains("ROC-AUC") && shown.contains("The gate's paired test"), "{shown}");
    browser.open("").await;
    browser.wait_for_text(".whereabouts", "Result:").await;
    // Labels of an axis read as what they are, whatever the step.
    let digits = "const done = arguments[arguments.length - 1]; \
                  import('/page/charts/scale.js').then(({ tickDigits }) => done( \
                    [[0, 2.5, 5, 7.5], [0, 25, 50], [0.7, 0.725, 0.75], [0, 0.2, 0.4, 0.6000000000000001]].map(tickDigits)))";
    assert_eq!(browser.later(digits).await, json!([1, 0, 3, 1]));
    browser.open("runs/run_2").await;
    assert!(browser.text("main").await.contains("Commit"), "the run's record");
    assert!(browser.script("return document.querySelectorAll('svg.lines').length").await.as_u64().unwrap() >= 2);
    // The back button works, as views are addresses.
    browser.open("cycles").await;
    browser.press("main tbody a[href='#/cycles/cycle_1']").await;
    browser.wait_for_text("main h1", "cycle_1").await;
    browser.script("history.back()").await;
    browser.wait_for_text("main h1", "Cycles").await;
}

/// A daemon without data, whose page this machine may look at.
fn daemon(sections: &str) -> DatalessDaemon {
    let tokens = format!("[[http.tokens]]\nname = \"ops\"\nrole = \"operator\"\ntoken = \"{TOKEN}\"\n");
    let quick = "[daemon]\nstep_retry_secs = 0.1\n[ingestion]\ninterval_secs = 1\n";
    DatalessDaemon::new("loopback_role = \"viewer\"", &format!("{quick}{sections}{tokens}"))
}

/// Puts an alert into the outbox of a daemon that has not begun.
async fn tell(daemon: &DatalessDaemon, key: &str, title: &str, body: &str) {
    let (title, body) = (title.to_owned(), body.to_owned());
    let alert = NewAlert { title, body, ..records::alert(key, Severity::Critical, SystemClock.now()) };
    daemon.ledger().enqueue_alert(alert).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_retries_and_silences_alerts_in_the_browser() {
    const TEST: &str = "an_operator_retries_and_silences_alerts_in_the_browser";
    let receiver = Receiver::start().await;
    let mut daemon = daemon(
        "[notification]\nchannels = [\"slack\"]\nattempts = 1\ninterval_secs = 1\ngroup_window_secs = 0\n\
         [notification.slack]\nwebhook_url = \"file:{place}/hook\"\n",
    );
    let Some(mut browser) = Browser::start(TEST, &daemon.url("")).await else { return };
    let hook = daemon.place.path().join("hook");
    fs::write(&hook, format!("http://{}/services/gone/hook", receiver.address)).unwrap();
    tell(&daemon, "drift/model_v1", "Drift: model_v1 sees other data", "wind_speed").await;
    daemon.start();

    // Nobody was reached; once somebody is there, it is told again.
    browser.open("alerts/alert_1").await;
    sign_in(&mut browser).await;
    browser.wait_for_text("main", "given up").await;
    browser.picture("alert-1-given-up").await;
    fs::write(&hook, receiver.url()).unwrap();
    let says = browser.command("retry", "the channel is there again").await;
    assert!(says.contains("Retry alert_1?"), "{says}");
    browser.wait_for_text(".toast", "1 delivery will be retried").await;
    browser.wait_for_text("main", "delivered").await;
    let told =
        receiver.messages().iter().any(|message| message.json().to_string().contains("model_v1 sees other data"));
    assert!(told, "{:?}", receiver.messages());

    // What is being worked on need not be told.
    let says = browser.command("silence", "we are at it").await;
    assert!(says.contains("They are still recorded"), "{says}");
    browser.open("alerts").await;
    let row = browser.wait_for_text("main tbody", "silence_1").await;
    assert!(row.contains("active") && row.contains("drift/model_v1") && row.contains("we are at it"), "{row}");
    browser.picture("alert-2-silenced").await;
    browser.command("end-silence_1", "it is done").await;
    browser.wait_for_text("main tbody", "ended").await;
    let audit = daemon.says(&["audit"]);
    for deed in ["retry", "silence"] {
        assert!(audit.lines().any(|line| line.contains("ops") && line.contains(deed)), "{deed}: {audit}");
    }
    let said = browser.console().await;
    assert!(said.is_empty(), "the console says:\n{}", said.join("\n"));
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_s_page_says_what_is_missing_and_takes_no_data_for_markup() {
    const TEST: &str = "a_new_daemon_s_page_says_what_is_missing_and_takes_no_data_for_markup";
    let mut daemon = daemon("");
    let Some(mut browser) = Browser::start(TEST, &daemon.url("")).await else { return };
    let title = "<img src=x onerror=\"document.title='taken'\"> & <b>bold</b>";
    tell(&daemon, "markup/1", title, "<script>document.title='taken'</script>").await;
    daemon.start();

    browser.open("alerts").await;
    browser.wait_for_text("main tbody", title).await;
    browser.open("alerts/alert_1").await;
    browser.wait_for_text("main", "<script>document.title='taken'</script>").await;
    let markup = browser
        .script("return [document.querySelectorAll('main img, main b, main script').length, document.title]")
        .await;
    assert_eq!(markup, json!([0, "alert_1 · delayd"]));

    let views = [
        "",
        "cycles",
        "decisions",
        "health",
        "performance",
        "drift",
        "deployments",
        "models",
        "compare",
        "runs",
        "datasets",
        "audit",
        "nowhere",
    ];
    look_at_everything(&mut browser, &views, "new").await;
    // That no first model can be had of nothing may have been decided by now.
    for view in views[1..].iter().filter(|view| **view != "decisions") {
        browser.open(view).await;
        assert!(!browser.text("main .empty").await.is_empty(), "#/{view} does not say that it is empty");
    }
    the_check_for_stumbling_blocks_finds_some(&mut browser).await;
    let said = browser.console().await;
    assert!(said.is_empty(), "the console says:\n{}", said.join("\n"));
    let (_, foreign) = browser.requests().await;
    assert!(foreign.is_empty(), "{foreign:?}");

    // A token that nobody knows: the page asks for another one.
    browser.script("sessionStorage.setItem('delayd.token', 'a token of last year')").await;
    browser.script("location.reload()").await;
    browser.wait_for_text("dialog[open]", "Sign in").await;
    browser.picture("new-sign-in").await;
    browser.close().await;
}

async fn the_check_for_stumbling_blocks_finds_some(browser: &mut Browser) {
    browser.open("cycles").await;
    browser
        .script(
            "const main = document.querySelector('main'); \
             const faint = document.createElement('p'); faint.textContent = 'hardly to be read'; \
             faint.style.color = '#c8c8c8'; main.append(faint); \
             main.append(document.createElement('button')); main.append(document.createElement('h4')); \
             const long = document.createElement('div'); long.style.width = '3000px'; long.style.height = '1px'; main.append(long);",
        )
        .await;
    let faults = browser.faults().await.join("\n");
    for fault in ["contrast", "no name", "heading of level 4 after"] {
        assert!(faults.contains(fault), "`{fault}` was not found:\n{faults}");
    }
    assert!(faults.contains("px on a screen of"), "{faults}");
}
