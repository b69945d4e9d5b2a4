//! The endpoint over TLS.

use std::fs;
use std::time::Duration;

use super::contracts::flaky_proxy::TestCertificates;
use super::text;
use super::{DatalessDaemon, prepared};

/// A new certificate for 127.0.0.1 of an authority of its own, in `place`; answers the authority's file.
fn issue(place: &std::path::Path, name: &str) -> std::path::PathBuf {
    let new = TestCertificates::new();
    let ca = place.join(format!("{name}.pem"));
    fs::write(&ca, &new.ca_pem).unwrap();
    // One after the other, as tools that renew do.
    fs::write(place.join("tls.crt"), &new.server_pem).unwrap();
    fs::write(place.join("tls.key"), &new.server_key_pem).unwrap();
    ca
}

#[test]
fn the_endpoint_speaks_tls_and_takes_a_renewed_certificate_without_a_restart() {
    let mut daemon = prepared("tls_certificate = \"{place}/tls.crt\"\ntls_key = \"{place}/tls.key\"");
    let first = issue(daemon.place.path(), "first");
    daemon.start();
    let url = format!("https://{}", daemon.address);
    let outcome = |ca: Option<&std::path::Path>| {
        let mut arguments = vec!["--url", url.as_str(), "status"];
        if let Some(path) = ca {
            arguments.extend(["--ca-file", path.to_str().unwrap()]);
        }
        let output = daemon.run(&arguments);
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let (code, told) = outcome(Some(&first));
    assert_eq!(code, 0, "{told}");
    let (code, told) = outcome(None);
    assert!(code == 3 && told.contains("certificate"), "an unknown authority, {code}: {told}");

    // Files' times may be as coarse as a second's part.
    std::thread::sleep(Duration::from_millis(50));
    let second = issue(daemon.place.path(), "second");
    let (code, told) = outcome(Some(&second));
    assert_eq!(code, 0, "{told}");
    assert_eq!(outcome(Some(&first)).0, 3, "the old one is no longer shown");

    // A pair that does not fit leaves what was there.
    fs::write(daemon.place.path().join("tls.key"), "nonsense").unwrap();
    assert_eq!(outcome(Some(&second)).0, 0);
    assert!(fs::read_to_string(daemon.log()).unwrap().contains("keeps its old certificate"));
}

#[test]
fn a_certificate_that_cannot_be_used_keeps_the_daemon_from_starting_and_says_why() {
    let daemon = prepared("tls_certificate = \"{place}/tls.crt\"\ntls_key = \"{place}/tls.key\"");
    let told = |daemon: &DatalessDaemon| {
        let output = daemon.run(&["run"]);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    assert!(told(&daemon).contains("http.tls_certificate"), "no file");
    issue(daemon.place.path(), "first");
    let other = TestCertificates::new();
    fs::write(daemon.place.path().join("tls.key"), &other.server_key_pem).unwrap();
    let text = told(&daemon);
    assert!(text.contains("http.tls_key") && text.contains("expected the key of the certificate"), "{text}");
}
