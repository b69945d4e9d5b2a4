//! What goes wrong, in our words: why a pod does not become ready, read off what the API server says of it (pure: whoever
//! calls fetches events and logs and hands them in); and what the API server and the way to it answer, as port errors.
//!
//! Credentials never reach a text: what comes out of credential plugins and kubeconfig files is reported by its kind only.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Event, Pod};
use kube::core::Status;

use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::http_client::kind_of_status;

/// A container that crashed this often is broken: once may be chance.
const CRASHES_OF_A_BROKEN_RELEASE: i32 = 2;
/// Troubles told of one release; the others are mostly the same.
const SHOWN_TROUBLES: usize = 3;
/// Conventional exit codes of processes that a signal ended are above this (POSIX shells).
const SIGNAL_EXIT_BASE: i32 = 128;

/// What would tell more about a trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Evidence {
    Events,
    /// The last lines of a container, of its present or of its previous run.
    Log {
        container: String,
        previous: bool,
    },
    None,
}

/// What keeps one pod from becoming ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Which pod; empty when there is none.
    pub(super) pod: String,
    pub(super) kind: ErrorKind,
    pub(super) text: String,
    /// Whether waiting longer is of no use.
    pub(super) definitive: bool,
    pub(super) evidence: Evidence,
}

impl Trouble {
    fn new(kind: ErrorKind, text: impl Into<String>, evidence: Evidence) -> Self {
        Self { pod: String::new(), kind, text: text.into(), definitive: false, evidence }
    }

    /// With what the events tell.
    pub(super) fn with_events(mut self, events: &[Event]) -> Self {
        let telling = |event: &&Event| event.type_.as_deref() == Some("Warning") && !is_echo(event);
        let Some(message) = events.iter().rev().find(telling).and_then(|event| event.message.as_deref()) else {
            return self;
        };
        let message = one_line(message);
        if !self.text.contains(&message) {
            self.text = format!("{} ({message})", self.text);
        }
        if self.kind == ErrorKind::Unavailable {
            self.kind = kind_of_pull(&message);
        }
        self
    }

    /// With the container's last lines.
    pub(super) fn with_log(mut self, log: &str) -> Self {
        let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !lines.is_empty() {
            self.text = format!("{}; its last lines: {}", self.text, lines.join(" | "));
        }
        self
    }
}

/// "Back-off pulling image" and its kind repeat what another event explains.
fn is_echo(event: &Event) -> bool {
    let message = event.message.as_deref().unwrap_or_default();
    event.reason.as_deref() == Some("BackOff") || message.starts_with("Error: ")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is the matter with a pod; `None` for one that is ready or leaving.
pub(super) fn of_pod(pod: &Pod) -> Option<Trouble> {
    if pod.metadata.deletion_timestamp.is_some() || condition_holds(pod, "Ready") {
        return None;
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let status = pod.status.as_ref();
    let unscheduled = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.status == "False" && condition.reason.is_some()
    });
    let trouble = if let Some(condition) = unscheduled {
        let message = one_line(condition.message.as_deref().unwrap_or("no reason is given"));
        Trouble::new(ErrorKind::Exhausted, format!("cannot be scheduled: {message}"), Evidence::None)
    } else if status.and_then(|status| status.phase.as_deref()) == Some("Failed") {
        let reason = status.and_then(|status| status.reason.as_deref()).unwrap_or("it failed");
        let message = status.and_then(|status| status.message.as_deref()).unwrap_or_default();
        let kind = if reason == "Evicted" { ErrorKind::Exhausted } else { ErrorKind::Invalid };
        Trouble::new(kind, one_line(&format!("{reason} {message}")), Evidence::None)
    } else {
        let containers = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
        let starting = || Trouble::new(ErrorKind::Timeout, "has not started its container yet", Evidence::Events);
        containers.filter(|container| !container.ready).map(of_container).next().unwrap_or_else(starting)
    };
    Some(Trouble { pod: name, ..trouble })
}

fn of_container(container: &ContainerStatus) -> Trouble {
    let state = container.state.clone().unwrap_or_default();
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let waiting = state.waiting.as_ref();
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = one_line(waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default());
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => {
            let text = format!("{reason}: its image cannot be pulled: {message}");
            Trouble::new(kind_of_pull(&message), text, Evidence::Events)
        }
        "InvalidImageName" | "ErrImageNeverPull" => {
            let text = format!("{reason}: {message}");
            Trouble { definitive: true, ..Trouble::new(ErrorKind::Invalid, text, Evidence::None) }
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Trouble::new(ErrorKind::Invalid, format!("{reason}: {message}"), Evidence::Events)
        }
        _ => match (&state, last) {
            (ContainerState { terminated: Some(ended), .. }, _) => of_crash(container, ended, false),
            (ContainerState { waiting: Some(_), .. }, Some(ended)) if reason == "CrashLoopBackOff" => {
                of_crash(container, ended, false)
            }
            (ContainerState { running: Some(_), .. }, Some(ended)) => of_crash(container, ended, true),
            (ContainerState { running: Some(_), .. }, None) => {
                Trouble::new(ErrorKind::Timeout, "runs and is not ready", Evidence::Events)
            }
            _ => Trouble::new(ErrorKind::Timeout, "has not started its container yet", Evidence::Events),
        },
    }
}

/// `again` when the container runs once more.
fn of_crash(container: &ContainerStatus, ended: &ContainerStateTerminated, again: bool) -> Trouble {
    let crashes = if again { container.restart_count } else { container.restart_count + 1 };
    let out_of_memory = ended.reason.as_deref() == Some("OOMKilled");
    let how = if out_of_memory {
        "ran out of memory (OOMKilled); raise cluster.kubernetes.memory_limit".to_owned()
    } else if ended.exit_code > SIGNAL_EXIT_BASE {
        format!("was killed by signal {}", ended.exit_code - SIGNAL_EXIT_BASE)
    } else {
        format!("exited with code {}", ended.exit_code)
    };
    let times = if crashes > 1 { format!(", {crashes} times") } else { String::new() };
    let kind = if out_of_memory { ErrorKind::Exhausted } else { ErrorKind::Invalid };
    let evidence = Evidence::Log { container: container.name.clone(), previous: again };
    Trouble {
        definitive: crashes >= CRASHES_OF_A_BROKEN_RELEASE,
        ..Trouble::new(kind, format!("CrashLoopBackOff: container {} {how}{times}", container.name), evidence)
    }
}

/// An image that is not there will not come; a registry that is unavailable may come back.
fn kind_of_pull(message: &str) -> ErrorKind {
    let lower = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["not found", "manifest unknown", "notfound", "does not exist"]) {
        ErrorKind::NotFound
    } else if says(&["unauthorized", "authentication", "denied", "forbidden"]) {
        ErrorKind::Denied
    } else {
        ErrorKind::Unavailable
    }
}

/// Why pods are not even made: quotas, admission.
pub(super) fn of_deployment(deployment: &Deployment) -> Option<Trouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure =
        conditions.iter().find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = one_line(failure.message.as_deref().unwrap_or_default());
    let kind = if message.contains("exceeded quota") {
        ErrorKind::Exhausted
    } else if message.contains("forbidden") || message.contains("denied") {
        ErrorKind::Denied
    } else {
        ErrorKind::Invalid
    };
    Some(Trouble::new(kind, format!("its pods cannot be made: {message}"), Evidence::None))
}

/// Whether the cluster itself has given the rollout up.
pub(super) fn is_given_up(deployment: &Deployment) -> bool {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "Progressing" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    })
}

/// The kind and the text of all troubles together: those that say most come first.
pub(super) fn told(mut troubles: Vec<Trouble>) -> Option<(ErrorKind, String)> {
    troubles.sort_by_key(|trouble| (!trouble.definitive, trouble.kind == ErrorKind::Timeout, trouble.pod.clone()));
    let kind = troubles.first()?.kind;
    let line = |trouble: &Trouble| match trouble.pod.as_str() {
        "" => trouble.text.clone(),
        pod => format!("pod {pod}: {}", trouble.text),
    };
    let mut lines: Vec<String> = troubles.iter().take(SHOWN_TROUBLES).map(line).collect();
    if troubles.len() > SHOWN_TROUBLES {
        lines.push(format!("and {} more", troubles.len() - SHOWN_TROUBLES));
    }
    Some((kind, lines.join("; ")))
}

/// Whether a pod's condition is true.
pub(super) fn condition_holds(pod: &Pod, name: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == name && condition.status == "True")
}

/// The longest part of the API server's message that goes into an error, in characters.
const EXCERPT_CHARS: usize = 500;

pub(super) fn of_call(action: &str, error: &kube::Error) -> PortError {
    match error {
        kube::Error::Api(status) => refusal(action, status),
        kube::Error::SerdeError(cause) => {
            let message = format!("the API server's answer is not the document expected: {cause}");
            PortError::new(ErrorKind::Corrupt, action, message)
        }
        kube::Error::Auth(cause) => PortError::new(ErrorKind::Denied, action, credentials(cause)),
        kube::Error::InferKubeconfig(cause) => PortError::new(ErrorKind::Invalid, action, kubeconfig(cause)),
        kube::Error::BuildRequest(cause) => PortError::new(ErrorKind::Internal, action, chain(cause)),
        kube::Error::HttpError(cause) => PortError::new(ErrorKind::Internal, action, chain(cause)),
        other => transport(action, &chain(other)),
    }
}

/// Whether our credentials are not accepted: they may have been changed since they were read.
pub(super) fn is_unauthorized(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 401)
}

/// Whether the API server was not reached at all.
pub(super) fn is_transport(error: &kube::Error) -> bool {
    matches!(error, kube::Error::HyperError(_) | kube::Error::Service(_))
}

pub(super) fn refusal(action: &str, status: &Status) -> PortError {
    let said: String = status.message.chars().take(EXCERPT_CHARS).collect();
    let quota = status.code == 403 && said.contains("exceeded quota");
    let (kind, message) = match status.code {
        401 => {
            let advice = "renew the kubeconfig or the service account's token";
            (ErrorKind::Denied, format!("the API server does not accept our credentials (401 {said}); {advice}"))
        }
        403 if quota => (ErrorKind::Exhausted, format!("{said}; raise the namespace's quota or make room")),
        403 => (ErrorKind::Denied, format!("{said}; k8s/rbac/role.yaml lists the rights that delayd needs")),
        code => (kind_of_status(code), format!("the API server answered {code} {}: {said}", status.reason)),
    };
    PortError::new(kind, action, message)
}

fn transport(action: &str, cause: &str) -> PortError {
    let message = if cause.contains("certificate") {
        let advice = "name its authority in the kubeconfig (certificate-authority)";
        format!("the API server's certificate is not trusted: {cause}; {advice}")
    } else {
        format!("the API server cannot be reached: {cause}")
    };
    PortError::new(ErrorKind::Unavailable, action, message)
}

/// Why there are no credentials. Plugins write tokens to their output, so it is not repeated.
fn credentials(error: &kube::client::AuthError) -> String {
    use kube::client::AuthError as Auth;
    let what = match error {
        Auth::AuthExecStart(cause) => format!("the credential plugin cannot be started ({cause})"),
        Auth::AuthExecRun { out, .. } => format!("the credential plugin failed ({})", out.status),
        Auth::AuthExecParse(_) | Auth::ExecPluginFailed => {
            "the credential plugin did not answer with an ExecCredential".to_owned()
        }
        Auth::ReadTokenFile(cause, path) => format!("token file {} cannot be read ({cause})", path.display()),
        Auth::InvalidBasicAuth(_) | Auth::InvalidBearerToken(_) => {
            "user name, password or token hold characters that no HTTP header can carry".to_owned()
        }
        _ => "they cannot be used".to_owned(),
    };
    format!("no credentials for the API server: {what}; look at the user of the kubeconfig's context")
}

/// Why a kubeconfig cannot be used. The parser quotes the lines around a fault,
/// which may hold a token: only the place is told.
pub(super) fn kubeconfig(error: &kube::config::KubeconfigError) -> String {
    use kube::config::KubeconfigError as Fault;
    match error {
        Fault::ReadConfig(cause, path) => format!("kubeconfig {} cannot be read: {cause}", path.display()),
        Fault::Parse(cause) => match cause.location() {
            Some(place) => {
                format!("the kubeconfig is not the YAML expected, in line {} column {}", place.line(), place.column())
            }
            None => "the kubeconfig is not the YAML expected".to_owned(),
        },
        Fault::LoadCertificateAuthority(cause) => format!("the kubeconfig's certificate-authority: {}", chain(cause)),
        Fault::LoadClientCertificate(cause) => format!("the kubeconfig's client-certificate: {}", chain(cause)),
        Fault::LoadClientKey(_) => "the kubeconfig's client-key cannot be read".to_owned(),
        Fault::ParseCertificates(_) => "the kubeconfig's certificate-authority is not PEM".to_owned(),
        other => chain(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"name": "delay-ml-1"}, "status": status});
        serde_json::from_value(pod).unwrap()
    }

    fn with_container(restarts: i32, state: &serde_json::Value, last: &serde_json::Value) -> Pod {
        pod(json!({"containerStatuses": [{
            "name": "serve", "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
            "state": state, "lastState": last,
        }]}))
    }

    fn events(of: &[(&str, &str)]) -> Vec<Event> {
        let event = |(reason, message): &(&str, &str)| {
            let event =
                json!({"metadata": {}, "involvedObject": {}, "type": "Warning", "reason": reason, "message": message});
            serde_json::from_value(event).unwrap()
        };
        of.iter().map(event).collect()
    }

    #[test]
    fn a_pod_that_is_ready_or_leaving_has_no_trouble() {
        assert_eq!(of_pod(&pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}))), None);
        let mut leaving = pod(json!({}));
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(of_pod(&leaving), None);
    }

    #[test]
    fn each_waiting_reason_has_its_kind() {
        for (reason, message, kind, definitive) in [
            ("ErrImagePull", "rpc error: code = NotFound: not found", ErrorKind::NotFound, false),
            ("ErrImagePull", "pull access denied", ErrorKind::Denied, false),
            ("ErrImagePull", "dial tcp: connection refused", ErrorKind::Unavailable, false),
            ("InvalidImageName", "couldn't parse image reference", ErrorKind::Invalid, true),
            ("CreateContainerConfigError", "secret \"x\" not found", ErrorKind::Invalid, false),
            ("ContainerCreating", "", ErrorKind::Timeout, false),
        ] {
            let state = json!({"waiting": {"reason": reason, "message": message}});
            let trouble = of_pod(&with_container(0, &state, &json!({}))).unwrap();
            assert_eq!((trouble.kind, trouble.definitive), (kind, definitive), "{reason}: {}", trouble.text);
            assert_eq!(trouble.pod, "delay-ml-1");
        }
    }

    #[test]
    fn the_second_crash_is_definitive_and_its_log_is_asked_for() {
        let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let first = of_pod(&with_container(0, &ended, &json!({}))).unwrap();
        assert_eq!((first.kind, first.definitive), (ErrorKind::Invalid, false));
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let second = of_pod(&with_container(1, &waiting, &ended)).unwrap();
        assert!(second.definitive && second.text.contains("exited with code 1, 2 times"), "{}", second.text);
        assert_eq!(second.evidence, Evidence::Log { container: "serve".to_owned(), previous: false });
        let running = of_pod(&with_container(1, &json!({"running": {}}), &ended)).unwrap();
        assert!(!running.definitive);
        assert_eq!(running.evidence, Evidence::Log { container: "serve".to_owned(), previous: true });
        let told = second.with_log("one\n\n  two\n").text;
        assert!(told.ends_with("its last lines: one | two"), "{told}");
    }

    #[test]
    fn memory_and_signals_are_told_apart_from_exit_codes() {
        let of = |exit: i32, reason: &str| {
            let ended = json!({"terminated": {"exitCode": exit, "reason": reason}});
            of_pod(&with_container(0, &ended, &json!({}))).unwrap()
        };
        let memory = of(137, "OOMKilled");
        assert!(memory.kind == ErrorKind::Exhausted && memory.text.contains("memory_limit"), "{}", memory.text);
        assert!(of(139, "Error").text.contains("signal 11"));
    }

    #[test]
    fn an_unschedulable_pod_repeats_what_the_scheduler_said() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu."});
        let trouble = of_pod(&pod(json!({"conditions": [condition]}))).unwrap();
        assert_eq!(trouble.kind, ErrorKind::Exhausted);
        assert!(trouble.text.contains("1 Insufficient cpu"), "{}", trouble.text);
    }

    #[test]
    fn events_explain_failing_probes_and_pulls() {
        let running = of_pod(&with_container(0, &json!({"running": {}}), &json!({}))).unwrap();
        let told = running.with_events(&events(&[("Unhealthy", "Readiness probe failed: HTTP probe failed: 503")]));
        assert!(told.text.contains("not ready (Readiness probe failed"), "{}", told.text);
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}});
        let pull = of_pod(&with_container(0, &waiting, &json!({}))).unwrap();
        let said = [
            ("Failed", "Failed to pull image \"x\": code = NotFound"),
            ("Failed", "Error: ErrImagePull"),
            ("BackOff", "Back-off pulling image \"x\""),
        ];
        let told = pull.with_events(&events(&said));
        assert!(told.kind == ErrorKind::NotFound && told.text.contains("Failed to pull"), "{}", told.text);
    }

    #[test]
    fn pods_that_are_not_made_are_told_with_the_admission_s_reason() {
        let of = |message: &str| {
            let condition =
                json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message});
            let deployment = json!({"metadata": {}, "status": {"conditions": [condition]}});
            of_deployment(&serde_json::from_value(deployment).unwrap()).unwrap().kind
        };
        assert_eq!(of("pods is forbidden: exceeded quota: small"), ErrorKind::Exhausted);
        assert_eq!(of("admission webhook \"policy\" denied the request"), ErrorKind::Denied);
    }

    #[test]
    fn what_says_most_is_told_first() {
        let trouble = |pod: &str, kind, definitive| Trouble {
            pod: pod.to_owned(),
            definitive,
            ..Trouble::new(kind, "text", Evidence::None)
        };
        let all = vec![
            trouble("a", ErrorKind::Timeout, false),
            trouble("b", ErrorKind::Exhausted, false),
            trouble("c", ErrorKind::Invalid, true),
            trouble("d", ErrorKind::Timeout, false),
        ];
        let (kind, text) = told(all).unwrap();
        assert_eq!(kind, ErrorKind::Invalid);
        assert!(text.starts_with("pod c: text; pod b: text") && text.ends_with("and 1 more"), "{text}");
        assert_eq!(told(Vec::new()), None);
    }
}

#[cfg(test)]
mod errors_tests {
    use super::*;

    fn answered(code: u16, message: &str) -> PortError {
        of_call("testing", &kube::Error::Api(Box::new(Status::failure(message, "Reason").with_code(code))))
    }

    #[test]
    fn an_answer_tells_whether_to_try_again() {
        for (code, kind) in [
            (401, ErrorKind::Denied),
            (403, ErrorKind::Denied),
            (404, ErrorKind::NotFound),
            (409, ErrorKind::Conflict),
            (422, ErrorKind::Invalid),
            (429, ErrorKind::Unavailable),
            (500, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
        ] {
            assert_eq!(answered(code, "text").kind(), kind, "{code}");
        }
        assert_eq!(answered(403, "pods \"x\" is forbidden: exceeded quota: small").kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn a_missing_right_is_told_as_the_api_server_names_it() {
        let said = "deployments.apps \"delay-ml\" is forbidden: User \"x\" cannot patch resource \"deployments\"";
        let text = answered(403, said).to_string();
        assert!(
            text.contains("cannot patch resource \"deployments\"") && text.contains("k8s/rbac/role.yaml"),
            "{text}"
        );
    }

    #[test]
    fn a_wrong_certificate_is_an_outage_that_says_certificate() {
        let error = transport("testing", "client error (Connect): invalid peer certificate: UnknownIssuer");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("certificate is not trusted"), "{error}");
    }
}
