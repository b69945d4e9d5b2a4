//! The service from its source: real repositories, real servers, real builds.

use std::path::Path;
use std::process::Command;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::ids::{CycleId, Digest};
use delayd_outside::packaging::SourceSettings;
use delayd_outside::packaging::source::{BuildControl, FinishedBuild, SourceBuilder, build_log_path};
use delayd_testkit::ci;
use delayd_testkit::ci::{
    ServiceRepository, cargo_settings, files_with, is_alive, makes_a_binary, script_settings, wait_for,
};
use tempfile::TempDir;

const FIRST: CycleId = CycleId(1);

fn build(settings: &SourceSettings, state: &Path, cycle: CycleId) -> Result<FinishedBuild, PortError> {
    assert_eq!(settings.faults(), Vec::<String>::new());
    SourceBuilder::new(settings, true, state).build(cycle, &BuildControl::default(), &|_| ())
}

/// A folder with a repository that is built by this script, and its commit.
fn script(script: &str) -> (TempDir, ServiceRepository, String) {
    let place = ci::private_folder();
    let (repository, commit) = ServiceRepository::script(&place.path().join("service"), script);
    (place, repository, commit)
}

/// The same with a cargo workspace whose service says something.
fn cargo(says: &str) -> (TempDir, ServiceRepository, String) {
    let place = ci::private_folder();
    let (repository, commit) = ServiceRepository::cargo(&place.path().join("service"), says);
    (place, repository, commit)
}

fn log(state: &Path, cycle: CycleId) -> String {
    std::fs::read_to_string(build_log_path(state, cycle)).unwrap()
}

fn output(build: &FinishedBuild) -> String {
    let output = Command::new(&build.binary).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_locked_build_of_a_branch_gives_a_static_service_and_says_where_it_came_from() {
    let (place, repository, commit) = cargo("one");
    let settings = cargo_settings(&repository.url());
    let told = std::sync::Mutex::new(Vec::new());
    let builder = SourceBuilder::new(&settings, true, place.path());
    let built =
        builder.build(FIRST, &BuildControl::default(), &|text| told.lock().unwrap().push(text.to_owned())).unwrap();
    assert_eq!((built.commit.as_str(), built.reused, output(&built).as_str()), (commit.as_str(), false, "one"));
    assert!(built.toolchain.starts_with("rustc 1."), "{}", built.toolchain);
    assert_eq!(built.digest, Digest::of(&std::fs::read(&built.binary).unwrap()));
    let log = log(place.path(), FIRST);
    assert!(log.contains("$ nice -n 10 cargo build --locked"), "{log}");
    assert!(log.contains("Compiling delayd-serve"), "{log}");
    let told = told.into_inner().unwrap();
    assert!(told[0].starts_with("fetching main of file://"), "{told:?}");
    assert!(told.iter().any(|text| text.starts_with(&format!("building {}: ", &commit[..12]))), "{told:?}");

    // The branch moves: another commit, another build, in the same target folder.
    let moved = repository.says("two");
    let second = build(&settings, place.path(), CycleId(2)).unwrap();
    assert_eq!((second.commit.as_str(), second.reused, output(&second).as_str()), (moved.as_str(), false, "two"));

    // A tag and the commit itself name the same, which needs no third build.
    repository.git(&["tag", "--annotate", "v1", "--message", "the first", &commit]);
    for (cycle, revision) in [(3, "v1"), (4, commit.as_str())] {
        let pinned = SourceSettings { revision: revision.to_owned(), ..settings.clone() };
        let again = build(&pinned, place.path(), CycleId(cycle)).unwrap();
        assert_eq!((&again.commit, again.reused), (&commit, true), "{revision}");
        assert_eq!((again.digest, again.toolchain.clone()), (built.digest.clone(), built.toolchain.clone()));
    }
}

#[test]
fn a_lock_file_that_is_out_of_date_fails_with_what_to_do() {
    let (place, repository, _) = cargo("one");
    repository.write("extra/Cargo.toml", "[package]\nname = \"extra\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    repository.write("extra/src/lib.rs", "");
    repository.write(
        "Cargo.toml",
        "[workspace]\nmembers = [\"serve\", \"extra\"]\n[profile.image]\ninherits = \"release\"\n",
    );
    repository.commit("a member that the lock file does not know");
    let error = build(&cargo_settings(&repository.url()), place.path(), FIRST).unwrap_err();
    let text = chain(&error);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
    assert!(text.contains("refused the lock file") && text.contains("cargo update --workspace"), "{text}");
}

#[test]
fn a_compile_error_ends_the_build_with_the_compilers_last_lines() {
    let (place, repository, commit) = cargo("one");
    repository.write("serve/src/main.rs", "fn main() { let late: u32 = \"late\"; }\n");
    let broken = repository.commit("does not compile");
    let settings = cargo_settings(&repository.url());
    let error = build(&settings, place.path(), FIRST).unwrap_err();
    let text = chain(&error);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
    assert!(text.contains(&broken[..12]) && text.contains("exit status 101"), "{text}");
    assert!(text.contains("mismatched types") && text.contains("could not compile"), "{text}");
    assert!(text.contains(&build_log_path(place.path(), FIRST).display().to_string()), "{text}");
    assert!(log(place.path(), FIRST).contains("mismatched types"));
    // What an earlier commit left in the target folder never passes for this one's.
    let good = SourceSettings { revision: commit, ..settings.clone() };
    build(&good, place.path(), CycleId(2)).unwrap();
    assert_eq!(build(&settings, place.path(), CycleId(3)).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_service_that_needs_a_loader_is_refused() {
    let (place, repository, _) = cargo("one");
    let mut settings = cargo_settings(&repository.url());
    settings.environment.insert("RUSTFLAGS".to_owned(), String::new());
    let error = build(&settings, place.path(), FIRST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("dynamically linked") && error.to_string().contains("crt-static"), "{error}");
}

#[test]
fn a_pinned_commit_that_is_built_needs_neither_network_nor_repository() {
    let (place, repository, commit) = script(&makes_a_binary("one"));
    let settings = SourceSettings { revision: commit, ..script_settings(&repository.url()) };
    let built = build(&settings, place.path(), FIRST).unwrap();
    std::fs::remove_dir_all(&repository.dir).unwrap();
    let again = build(&settings, place.path(), CycleId(2)).unwrap();
    assert!(again.reused);
    assert_eq!(again.digest, built.digest);
    // A damaged one is not used: it is built again, from the mirror.
    std::fs::write(&again.binary, "bit rot").unwrap();
    let third = build(&settings, place.path(), CycleId(3)).unwrap();
    assert_eq!((third.reused, third.digest), (false, built.digest));
}

#[test]
fn a_mirror_that_was_left_locked_or_damaged_is_fetched_again() {
    let (place, repository, _) = script(&makes_a_binary("one"));
    let settings = script_settings(&repository.url());
    build(&settings, place.path(), FIRST).unwrap();
    let mirrors = || {
        let entries = std::fs::read_dir(place.path().join("sources")).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "git")).collect::<Vec<_>>()
    };
    let [mirror] = &mirrors()[..] else { panic!("{:?}", mirrors()) };
    // As a git that is killed in a fetch leaves it.
    std::fs::write(mirror.join("shallow.lock"), "").unwrap();
    repository.write("build.sh", &makes_a_binary("two"));
    let moved = repository.commit("second");
    assert_eq!(build(&settings, place.path(), CycleId(2)).unwrap().commit, moved);
    assert!(!mirror.join("shallow.lock").exists());
    // A disk that lost what was written.
    for object in files_with(&mirror.join("objects"), "") {
        std::fs::remove_file(&object).unwrap();
        std::fs::write(&object, "").unwrap();
    }
    let pinned = SourceSettings { revision: moved.clone(), niceness: 3, ..settings.clone() };
    std::fs::remove_dir_all(place.path().join("builds/cache")).unwrap();
    assert_eq!(build(&pinned, place.path(), CycleId(3)).unwrap().commit, moved);
}

#[test]
fn an_abbreviated_commit_of_the_history_is_found() {
    let (place, repository, old) = script(&makes_a_binary("one"));
    repository.write("build.sh", &makes_a_binary("two"));
    let new = repository.commit("second");
    let settings = script_settings(&repository.dir.display().to_string());
    // First only the newest commit is fetched; then the history is needed.
    assert_eq!(build(&settings, place.path(), FIRST).unwrap().commit, new);
    let abbreviated = SourceSettings { revision: old[..9].to_owned(), ..settings };
    assert_eq!(build(&abbreviated, place.path(), CycleId(2)).unwrap().commit, old);
}

#[test]
fn an_unknown_revision_is_named_with_those_that_there_are() {
    let (place, repository, _) = script(&makes_a_binary("one"));
    repository.git(&["branch", "develop"]);
    for unknown in ["realease/7", "0123456789abcdef0123456789abcdef01234567", "0123abcd"] {
        let settings = SourceSettings { revision: unknown.to_owned(), ..script_settings(&repository.url()) };
        let error = build(&settings, place.path(), FIRST).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{text}");
        assert!(text.contains(&format!("`{unknown}`")) && text.contains("develop, main"), "{text}");
    }
}

#[test]
fn a_repository_that_is_not_there_is_named() {
    let place = ci::private_folder();
    let settings = script_settings(&place.path().join("nowhere").display().to_string());
    let error = build(&settings, &place.path().join("state"), FIRST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(
        error.to_string().contains("nowhere") && error.to_string().contains("packaging.source.repository"),
        "{error}"
    );
}

#[test]
fn every_build_begins_in_a_tree_where_nothing_else_lies() {
    let text = format!("test ! -e junk || exit 9\ntouch junk\nrm build.sh\n{}", makes_a_binary("one"));
    let (place, repository, _) = script(&text);
    repository.write(".gitignore", "junk\n");
    let settings = script_settings(&repository.url());
    repository.commit("ignore the junk");
    build(&settings, place.path(), FIRST).unwrap();
    // Also what lies in the folder of an uncommitted working copy stays out.
    repository.write("junk", "of somebody");
    repository.git(&["commit", "--quiet", "--allow-empty", "--message", "again"]);
    let second = build(&settings, place.path(), CycleId(2)).unwrap();
    assert!(!second.reused);
}

#[test]
fn a_subdirectory_is_built_and_a_missing_one_is_named() {
    let (place, repository, _) = script("exit 1\n");
    repository.write("services/delay/build.sh", &makes_a_binary("inner"));
    repository.commit("inner");
    let settings = SourceSettings { subdirectory: "services/delay".to_owned(), ..script_settings(&repository.url()) };
    build(&settings, place.path(), FIRST).unwrap();
    let missing = SourceSettings { subdirectory: "services/none".to_owned(), ..settings };
    let error = build(&missing, place.path(), CycleId(2)).unwrap_err();
    assert!(error.to_string().contains("`services/none`"), "{error}");
}

#[test]
fn a_state_directory_may_be_named_from_where_the_daemon_was_started() {
    let (place, repository, _) = script(&makes_a_binary("one"));
    let up: std::path::PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
    let relative = up.join(place.path().strip_prefix("/").unwrap()).join("state");
    assert!(relative.is_relative());
    let built = build(&script_settings(&repository.url()), &relative, FIRST).unwrap();
    assert!(built.binary.is_file());
}

#[test]
fn a_command_that_builds_nothing_is_reported() {
    let (place, repository, _) = script("echo nothing to do\n");
    let error = build(&script_settings(&repository.url()), place.path(), FIRST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("packaging.source.binary"), "{error}");
    let program = SourceSettings {
        build_command: vec!["no-such-builder".to_owned()],
        niceness: 0,
        ..script_settings(&repository.url())
    };
    let error = build(&program, place.path(), CycleId(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("`no-such-builder`"), "{error}");
}

/// A script that leaves the ids of three processes in `pids` and never ends: itself,
/// a child, and a child in a session of its own. None of them heeds a polite word.
fn hangs(pids: &Path) -> String {
    let pids = pids.display();
    format!(
        "trap '' TERM\nsleep 600 &\necho $! >> {pids}\nsetsid sleep 600 &\necho $! >> {pids}\necho $$ >> {pids}\n\
         echo hanging now\nwait\nsleep 600\n"
    )
}

fn ids_in(pids: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(pids).ok()?;
    let ids: Vec<String> = text.lines().map(str::to_owned).collect();
    (ids.len() == 3).then_some(ids)
}

#[test]
fn a_build_that_hangs_is_ended_at_its_deadline_with_all_its_children() {
    let place = ci::private_folder();
    let pids = place.path().join("pids");
    let (repository, _) = ServiceRepository::script(&place.path().join("service"), &hangs(&pids));
    let settings = SourceSettings { timeout_secs: 2, ..script_settings(&repository.url()) };
    let error = build(&settings, place.path(), FIRST).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{text}");
    assert!(text.contains("2 s") && text.contains("timeout_secs") && text.contains("hanging now"), "{text}");
    let ids = ids_in(&pids).unwrap();
    let alive: Vec<&String> = ids.iter().filter(|pid| is_alive(pid)).collect();
    assert!(alive.is_empty(), "{alive:?} of {ids:?} still run");
}

#[test]
fn a_cancelled_build_is_ended_with_all_its_children() {
    let place = ci::private_folder();
    let pids = place.path().join("pids");
    let (repository, _) = ServiceRepository::script(&place.path().join("service"), &hangs(&pids));
    let (settings, state) = (script_settings(&repository.url()), place.path().to_owned());
    let control = BuildControl::default();
    let running = control.clone();
    let thread =
        std::thread::spawn(move || SourceBuilder::new(&settings, true, &state).build(FIRST, &running, &|_| ()));
    let ids = wait_for("the build hangs", || ids_in(&pids));
    assert!(ids.iter().all(|pid| is_alive(pid)), "the test must be able to fail");
    control.cancel();
    let error = thread.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(!ids.iter().any(|pid| is_alive(pid)));
}

#[test]
fn what_a_killed_daemon_left_running_is_ended_by_the_next_build() {
    let (place, repository, _) = script(&makes_a_binary("one"));
    let builds = place.path().join("builds");
    std::fs::create_dir_all(&builds).unwrap();
    let mark = builds.canonicalize().unwrap().display().to_string();
    let mut left = Command::new("sleep").arg("600").env("DELAYD_BUILD_MARK", mark).spawn().unwrap();
    let pid = left.id().to_string();
    // Until it has replaced itself by `sleep` it has our own environment.
    wait_for("it sleeps", || {
        std::fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| line.starts_with(b"sleep"))
    });
    build(&script_settings(&repository.url()), place.path(), FIRST).unwrap();
    assert!(!is_alive(&pid));
    left.wait().unwrap();
}

#[test]
fn the_build_sees_little_of_the_daemons_environment_and_gives_way_to_others() {
    let text = format!("env | sort\nnice\n{}", makes_a_binary("one"));
    let (place, repository, commit) = script(&text);
    let mut settings = script_settings(&repository.url());
    settings.environment.insert("FLAVOUR".to_owned(), "plain".to_owned());
    settings.niceness = 7;
    build(&settings, place.path(), FIRST).unwrap();
    let log = log(place.path(), FIRST);
    for line in ["FLAVOUR=plain", &format!("DELAYD_BUILD_COMMIT={commit}"), "RUSTFLAGS=-C target-feature=+crt-static"] {
        assert!(log.lines().any(|found| found == line), "{line} is not in\n{log}");
    }
    assert!(log.contains("SOURCE_DATE_EPOCH=") && log.contains("CARGO_TARGET_DIR=/"), "{log}");
    // cargo sets it for every test, and it is none of the build's business.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!log.contains("CARGO_MANIFEST_DIR="), "{log}");
    let niceness: Vec<i32> = log.lines().filter_map(|line| line.parse().ok()).filter(|nice| *nice < 20).collect();
    assert!(niceness.first().is_some_and(|nice| *nice >= 7), "{niceness:?} in\n{log}");
}

#[test]
fn only_so_many_logs_and_executables_are_kept() {
    let (place, repository, _) = script(&makes_a_binary("0"));
    let settings = SourceSettings { keep_builds: 2, ..script_settings(&repository.url()) };
    for number in 1..=4 {
        repository.write("build.sh", &makes_a_binary(&number.to_string()));
        repository.commit("next");
        build(&settings, place.path(), CycleId(number)).unwrap();
    }
    let logs: Vec<bool> = (1..=4).map(|number| build_log_path(place.path(), CycleId(number)).exists()).collect();
    assert_eq!(logs, [false, false, true, true]);
    assert_eq!(std::fs::read_dir(place.path().join("builds/cache")).unwrap().count(), 2);
}

#[test]
fn an_endless_log_is_bounded_and_still_reports_the_end() {
    let text = "i=0\nwhile [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done\necho the very end\nexit 3\n";
    let (place, repository, _) = script(text);
    let settings = SourceSettings { maximum_log_bytes: 65_536, ..script_settings(&repository.url()) };
    let error = build(&settings, place.path(), FIRST).unwrap_err();
    assert!(error.to_string().contains("exit status 3") && error.to_string().contains("the very end"), "{error}");
    let log = log(place.path(), FIRST);
    assert!(log.len() < 80_000 && log.contains("line 0\n") && log.contains("the very end"), "{}", log.len());
}

#[test]
fn a_probe_reports_the_commit_and_leaves_nothing_behind() {
    let (place, repository, commit) = script(&makes_a_binary("one"));
    let state = place.path().join("state");
    let settings = script_settings(&repository.url());
    let told = SourceBuilder::new(&settings, true, &state).probe().unwrap();
    assert!(told.contains(&commit[..12]) && told.contains("main"), "{told}");
    let unknown = SourceSettings { revision: "none".to_owned(), ..settings };
    let error = SourceBuilder::new(&unknown, true, &state).probe().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(!state.exists());
    assert_eq!(files_with(place.path(), "DELAYD_GIT_TOKEN"), Vec::<std::path::PathBuf>::new());
}

#[test]
fn two_builds_at_once_wait_for_each_other() {
    let text = format!(
        "mkdir \"$CARGO_TARGET_DIR/busy\" || exit 9\nsleep 0.3\nrmdir \"$CARGO_TARGET_DIR/busy\"\n{}",
        makes_a_binary("one")
    );
    let (place, repository, _) = script(&text);
    let builds: Vec<_> = (1..=3)
        .map(|number| {
            let mut settings = script_settings(&repository.url());
            settings.environment.insert("NUMBER".to_owned(), number.to_string());
            let state = place.path().to_owned();
            std::thread::spawn(move || build(&settings, &state, CycleId(number)))
        })
        .collect();
    for thread in builds {
        thread.join().unwrap().unwrap();
    }
}

/// The default settings against this very repository: minutes of compiling, and a
/// registry for the dependencies.
#[test]
#[ignore = "compiles the real service; run it with `--run-ignored only` or `-- --ignored`"]
fn the_real_service_is_built_from_this_repository_as_the_defaults_say() {
    const TEST: &str = "the_real_service_is_built_from_this_repository_as_the_defaults_say";
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(here).output().unwrap();
    if !head.status.success() {
        eprintln!("SKIPPED: {TEST}: {} is no git clone", here.display());
        return;
    }
    let commit = String::from_utf8(head.stdout).unwrap().trim().to_owned();
    let place = ci::private_folder();
    let settings = SourceSettings { revision: commit.clone(), ..cargo_settings(&format!("file://{}", here.display())) };
    for (cycle, reused) in [(1, false), (2, true)] {
        let begun = std::time::Instant::now();
        let built = build(&settings, place.path(), CycleId(cycle)).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!((&built.commit, built.reused), (&commit, reused));
        eprintln!(
            "cycle {cycle}: {:.1} s, {} bytes, {}",
            begun.elapsed().as_secs_f64(),
            built.size_bytes,
            built.digest
        );
        let help = Command::new(&built.binary).arg("--version").output().unwrap();
        assert!(String::from_utf8_lossy(&help.stdout).starts_with("delayd-serve "), "{help:?}");
    }
}
