//! A real browser for tests: Debian's chromium, driven by its chromedriver.
//!
//! Needs `chromium` and `chromedriver` in the path. Without them the tests say SKIPPED
//! and pass.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the page does by itself takes less than this; a cycle's steps have their own limit.
pub const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(40);

/// Whether the shell is there and the view has come.
const READY: &str =
    "return document.querySelector('main h1') !== null && document.querySelector('main[aria-busy], .loading') === null";
/// Other tests make and remove networks, and chromium then lets go of what it was loading.
const NETWORK_CHANGED: &str = "ERR_NETWORK_CHANGED";

/// How the page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub name: &'static str,
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

pub const DESK: Screen = Screen { name: "desk", width: 1280, height: 900, dark: false };
pub const NIGHT: Screen = Screen { name: "night", width: 1280, height: 900, dark: true };
pub const PHONE: Screen = Screen { name: "phone", width: 360, height: 740, dark: false };

/// A browser with one page open. What it says in its console and what it asks of the
/// network is kept.
pub struct Browser {
    client: Client,
    base: String,
    said: Vec<String>,
    asked: BTreeSet<String>,
    screen: Screen,
    _driver: Driver,
}

impl Browser {
    /// A browser for the page at `base`, or `None` after saying loudly what is missing.
    pub async fn start(test: &str, base: &str) -> Option<Self> {
        let driver = Driver::start(test)?;
        let client = driver.connect().await;
        let mut browser = Self {
            client,
            base: base.to_owned(),
            said: Vec::new(),
            asked: BTreeSet::new(),
            screen: DESK,
            _driver: driver,
        };
        browser.look_at(DESK).await;
        Some(browser)
    }

    /// Takes another screen: its size, and whether the system likes it dark.
    pub async fn look_at(&mut self, screen: Screen) {
        let scheme = if screen.dark { "dark" } else { "light" };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.chromium("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let metrics = json!({
            "width": screen.width, "height": screen.height, "deviceScaleFactor": 1, "mobile": screen.width < 600,
        });
        self.chromium("Emulation.setDeviceMetricsOverride", metrics).await;
        self.screen = screen;
    }

    async fn chromium(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.client.issue_cmd(Chromium { path: "goog/cdp/execute", body }).await.unwrap()
    }

    /// Opens a view anew, by its address behind the `#`, and waits until it is drawn.
    pub async fn open(&mut self, view: &str) {
        for attempt in 1.. {
            self.client.goto("about:blank").await.unwrap();
            self.client.goto(&format!("{}/#/{view}", self.base)).await.unwrap();
            let began = Instant::now();
            while began.elapsed() < PATIENCE {
                if self.script(READY).await == json!(true) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
            self.listen().await;
            let text = self.script("return document.body.innerText").await;
            assert!(attempt < 3, "#/{view} does not come: {text}\n{}", self.said.join("\n"));
        }
    }

    pub async fn script(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// The answer of a script that calls its last argument.
    pub async fn later(&self, script: &str) -> Value {
        self.client.execute_async(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until a script answers something else than null or false.
    pub async fn wait(&self, what: &str, limit: Duration, script: &str) -> Value {
        let began = Instant::now();
        loop {
            let found = self.script(script).await;
            if !matches!(found, Value::Null | Value::Bool(false)) {
                return found;
            }
            if began.elapsed() > limit {
                let text = self.script("return document.body.innerText").await;
                panic!("waited {limit:?} in vain until {what}; the page says:\n{}", text.as_str().unwrap_or_default());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until an element's text holds some words.
    pub async fn wait_for_text(&self, selector: &str, words: &str) -> String {
        let script = format!(
            "const text = [...document.querySelectorAll({selector})].map((one) => one.innerText).join('\\n'); \
             return text.includes({words}) && text",
            selector = json!(selector),
            words = json!(words)
        );
        let found = self.wait(&format!("{selector} says `{words}`"), PATIENCE, &script).await;
        found.as_str().unwrap().to_owned()
    }

    pub async fn text(&self, selector: &str) -> String {
        let script = format!(
            "return [...document.querySelectorAll({})].map((one) => one.innerText).join('\\n')",
            json!(selector)
        );
        self.script(&script).await.as_str().unwrap().to_owned()
    }

    /// Clicks as a person does: on what is on the screen.
    pub async fn press(&self, selector: &str) {
        self.wait(
            &format!("{selector} is there"),
            PATIENCE,
            &format!("return document.querySelector({}) !== null", json!(selector)),
        )
        .await;
        let began = Instant::now();
        loop {
            let centre = format!("document.querySelector({})?.scrollIntoView({{ block: 'center' }})", json!(selector));
            self.script(&centre).await;
            let pressed = match self.client.find(Locator::Css(selector)).await {
                Ok(element) => element.click().await,
                Err(error) => Err(error),
            };
            match pressed {
                Ok(()) => return,
                // The view was drawn again in between.
                Err(error) => assert!(began.elapsed() < PATIENCE, "{selector} cannot be pressed: {error}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub async fn write(&self, selector: &str, text: &str) {
        let field = self.client.wait().for_element(Locator::Css(selector)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// A key to whatever has the focus.
    pub async fn key(&self, key: Key) {
        let active = self.client.active_element().await.unwrap();
        active.send_keys(&char::from(key).to_string()).await.unwrap();
    }

    /// Presses a command's button, reads what it will do, says why, confirms. Answers
    /// what the dialog said.
    pub async fn command(&self, name: &str, why: &str) -> String {
        self.press(&format!("[data-command={name}]:not([aria-disabled])")).await;
        self.wait("a dialog asks", PATIENCE, "return document.querySelector('dialog[open]') !== null").await;
        let says = self.text("dialog[open]").await;
        // Without a reason nothing is done.
        self.press("dialog[open] button[type=submit]").await;
        assert_eq!(self.script("return document.querySelector('dialog[open]') !== null").await, json!(true));
        self.write("dialog[open] [name=why]", why).await;
        self.press("dialog[open] button[type=submit]").await;
        let gone = "return document.querySelector('dialog[open]') === null || document.querySelector('.trouble').innerText || null";
        let trouble = self.wait("the dialog closes", Duration::from_secs(60), gone).await;
        assert_eq!(trouble, json!(true), "{name} failed");
        says
    }

    /// Takes a picture of the whole view into the target directory, where `DELAYD_TEST_PICTURES` is set: drawing some
    /// sixty of them takes longer than all that the tests look at.
    pub async fn picture(&mut self, name: &str) {
        if std::env::var_os("DELAYD_TEST_PICTURES").is_none() {
            return;
        }
        let screen = self.screen;
        let height = self.script("return document.documentElement.scrollHeight").await.as_u64().unwrap();
        let height = u32::try_from(height).unwrap().clamp(screen.height, 6000);
        self.look_at(Screen { height, ..screen }).await;
        // A frame for the charts to be drawn anew.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let bytes = self.client.screenshot().await.unwrap();
        self.look_at(screen).await;
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}-{}.png", screen.name)), bytes).unwrap();
    }

    /// What somebody with a screen reader, a keyboard or weak eyes would stumble over.
    pub async fn faults(&self) -> Vec<String> {
        let found = self.script(include_str!("browser/accessibility.js")).await;
        serde_json::from_value(found).unwrap()
    }

    /// Takes in what the browser noted since the last time. That a cycle has no log of
    /// its own the page says itself.
    async fn listen(&mut self) {
        for entry in self.noted("browser").await {
            let text = format!("{}: {}", entry["level"].as_str().unwrap(), entry["message"].as_str().unwrap());
            let trouble = entry["level"] == "WARNING" || entry["level"] == "SEVERE";
            let without_log = text.contains("/log?lines=") && text.contains("404");
            if trouble && !text.contains(NETWORK_CHANGED) && !without_log {
                self.said.push(text);
            }
        }
        for entry in self.noted("performance").await {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            if event["message"]["method"] == "Network.requestWillBeSent" {
                self.asked.insert(event["message"]["params"]["request"]["url"].as_str().unwrap().to_owned());
            }
        }
    }

    async fn noted(&self, what: &str) -> Vec<Value> {
        let found = self.client.issue_cmd(Chromium { path: "se/log", body: json!({ "type": what }) }).await.unwrap();
        found.as_array().unwrap().clone()
    }

    /// What stood in the console since the last call.
    pub async fn console(&mut self) -> Vec<String> {
        self.listen().await;
        std::mem::take(&mut self.said)
    }

    /// Every address on the network that was asked for, of this daemon and of anybody
    /// else; chromium's start page asks chromium itself.
    pub async fn requests(&mut self) -> (Vec<String>, Vec<String>) {
        self.listen().await;
        self.asked
            .iter()
            .filter(|url| url.starts_with("http") || url.starts_with("ws"))
            .cloned()
            .partition(|url| url.starts_with(&self.base))
    }

    pub async fn close(self) {
        self.client.close().await.unwrap();
    }
}

// ----------------------------------------------------------------
// chromedriver and the browser that it starts, and their ends.

/// A command that only chromium's driver knows.
#[derive(Debug)]
pub struct Chromium {
    pub path: &'static str,
    pub body: Value,
}

impl WebDriverCompatibleCommand for Chromium {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

/// A running chromedriver. Its end is the end of every browser that it started.
pub struct Driver {
    process: Child,
    address: String,
    profile: TempDir,
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

impl Driver {
    pub fn start(test: &str) -> Option<Self> {
        for program in ["chromium", "chromedriver"] {
            if !in_path(program) {
                eprintln!("SKIPPED: {test}: no {program}; on Debian, `apt-get install chromium chromium-driver`");
                return None;
            }
        }
        let mut process =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        // "ChromeDriver was started successfully on port 41234."
        let port = lines.map(Result::unwrap).find_map(|line| {
            let number = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            number.trim_end_matches('.').parse::<u16>().ok()
        });
        let port = port.expect("chromedriver says on which port it listens");
        let profile = TempDir::new().unwrap();
        Some(Self { process, address: format!("http://127.0.0.1:{port}"), profile })
    }

    pub async fn connect(&self) -> Client {
        let profile = format!("--user-data-dir={}", self.profile.path().display());
        let mut arguments = vec![
            "--headless=new",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--disable-component-update",
            &profile,
        ];
        if nix::unistd::geteuid().is_root() {
            arguments.push("--no-sandbox");
        }
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("it was just made as an object") };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        ClientBuilder::new(connector).capabilities(capabilities).connect(&self.address).await.unwrap()
    }

    /// Processes whose command line names this browser's own folder.
    fn browsers(&self) -> Vec<Pid> {
        let profile = self.profile.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&profile) {
                found.push(Pid::from_raw(pid));
            }
        }
        found
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for browser in self.browsers() {
            // One that ended meanwhile is what was wanted.
            let _ = kill(browser, Signal::SIGKILL);
        }
    }
}
