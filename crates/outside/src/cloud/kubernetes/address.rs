//! Where the service and its pods are reached: directly, or through the API server.
//!
//! For a daemon that cannot reach pods directly there is a small HTTP server on the loopback address that passes requests
//! on to the API server's proxy, with our credentials. It reaches the service and its pods and nothing else of the API
//! server, and only whoever knows the unguessable first part of its path.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse};
use serde_json::Value;

use super::client::KubernetesClient;
use super::record::random_hex;
use super::settings::KubernetesSettings;
use super::templates::ADMIN_PORT;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_http_limits::{Connections, Guard, Limits, http_service, plain, receive_in_time};

/// Base URLs of the service and its pods.
#[derive(Debug)]
pub(super) struct Addresses {
    configured: String,
    name: String,
    namespace: String,
    service_port: u16,
    /// The Service's own address, once it was seen.
    cluster_ip: Mutex<Option<String>>,
    /// In place of direct addresses.
    proxy: Option<LoopbackProxy>,
}

impl Addresses {
    pub(super) fn new(settings: &KubernetesSettings, proxy: Option<LoopbackProxy>) -> Self {
        Self {
            configured: settings.service_url.trim_end_matches('/').to_owned(),
            name: settings.name.clone(),
            namespace: settings.namespace.clone(),
            service_port: settings.service_port,
            cluster_ip: Mutex::default(),
            proxy,
        }
    }

    /// The service: as configured, through the proxy, by its cluster address, or
    /// by its name while that address is not known.
    pub(super) fn service_url(&self) -> String {
        if !self.configured.is_empty() {
            return self.configured.clone();
        }
        if let Some(proxy) = &self.proxy {
            return proxy.service_url();
        }
        let known = self.cluster_ip.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let host = known.map_or_else(|| self.dns_name(), |ip| in_url(&ip));
        match self.service_port {
            80 => format!("http://{host}"),
            port => format!("http://{host}:{port}"),
        }
    }

    fn dns_name(&self) -> String {
        match self.namespace.as_str() {
            "" => self.name.clone(),
            namespace => format!("{}.{namespace}.svc", self.name),
        }
    }

    /// One pod's administrative routes; empty while the pod has no address.
    pub(super) fn admin_url(&self, pod: &str, ip: Option<&str>) -> String {
        match (&self.proxy, ip) {
            (_, None) => String::new(),
            (Some(proxy), Some(_)) => proxy.admin_url(pod),
            (None, Some(ip)) => format!("http://{}:{ADMIN_PORT}", in_url(ip)),
        }
    }

    /// Remembers the address of a Service that was read or applied.
    pub(super) fn note_service(&self, service: &Value) {
        let ip = service.pointer("/spec/clusterIP").and_then(Value::as_str);
        // A headless Service has none.
        if let Some(ip) = ip.filter(|ip| !ip.is_empty() && *ip != "None") {
            *self.cluster_ip.lock().unwrap_or_else(PoisonError::into_inner) = Some(ip.to_owned());
        }
    }
}

/// IPv6 addresses stand in brackets (RFC 3986, section 3.2.2).
fn in_url(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// Largest request that is passed on: more than the service itself takes.
const MAX_REQUEST_BYTES: usize = 32 << 20;
/// Connections at most: only the daemon itself knows the path, but any process of this machine can connect.
const MAX_CONNECTIONS: usize = 256;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Headers that are passed on; everything else is between us and the API server.
const PASSED_HEADERS: [&str; 3] = ["accept", "content-type", "x-delayd-probe"];

/// The running server; it stops when this is dropped.
#[derive(Debug)]
pub(super) struct LoopbackProxy {
    base: String,
    server: ServerHandle,
}

impl LoopbackProxy {
    /// Listens on a free port. Talks to nobody until it is asked.
    pub(super) fn start(client: Arc<KubernetesClient>, service: &str, service_port: u16) -> Result<Self, PortError> {
        let action = "starting the proxy to the API server";
        let failed = |error: std::io::Error| PortError::io(action, error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let key = random_hex(16).map_err(failed)?;
        let base = format!("http://127.0.0.1:{port}/{key}");
        let target = Target { client, key, service: format!("{service}:{service_port}") };
        let (sender, receiver) = mpsc::channel();
        let run = move || {
            let target = Data::new(target);
            actix_web::rt::System::new().block_on(async move {
                let app = move || {
                    App::new()
                        .app_data(target.clone())
                        .app_data(web::PayloadConfig::new(MAX_REQUEST_BYTES))
                        .wrap(from_fn(receive_in_time))
                        .default_service(web::to(pass_on))
                };
                let builder = Server::build().workers(1).disable_signals();
                let limits = Limits {
                    connections_per_client: MAX_CONNECTIONS,
                    connections: MAX_CONNECTIONS,
                    ..Limits::default()
                };
                let guard = Guard::new(Connections::new(limits), KEEP_ALIVE, &builder);
                let listening =
                    builder.listen("kubernetes-proxy", listener, move || http_service(&guard, true, plain, app()));
                let server = match listening {
                    Ok(server) => server.run(),
                    Err(error) => return sender.send(Err(error)).unwrap_or_default(),
                };
                // The receiver is gone only if the adapter is.
                if sender.send(Ok(server.handle())).is_ok()
                    && let Err(error) = server.await
                {
                    tracing::error!(error = chain(&error), "the proxy to the API server ended");
                }
            });
        };
        std::thread::Builder::new().name("kubernetes-proxy".to_owned()).spawn(run).map_err(failed)?;
        match receiver.recv() {
            Ok(Ok(server)) => Ok(Self { base, server }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(PortError::new(ErrorKind::Interrupted, action, "its thread ended")),
        }
    }

    /// The service as clients see it.
    pub(super) fn service_url(&self) -> String {
        format!("{}/service", self.base)
    }

    pub(super) fn admin_url(&self, pod: &str) -> String {
        format!("{}/pods/{pod}", self.base)
    }
}

impl Drop for LoopbackProxy {
    fn drop(&mut self) {
        // The command is sent at once; nobody is left to wait for its end.
        drop(self.server.stop(false));
    }
}

/// What the handlers share.
struct Target {
    client: Arc<KubernetesClient>,
    key: String,
    /// `name:port`.
    service: String,
}

impl Target {
    /// The path at the API server below the namespace; `None` for what is not passed on.
    fn path(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix('/')?.strip_prefix(self.key.as_str())?.strip_prefix('/')?;
        if rest.contains("..") || rest.to_ascii_lowercase().contains("%2e") {
            return None;
        }
        let (what, rest) = rest.split_once('/').unwrap_or((rest, ""));
        if what == "service" {
            return Some(format!("services/{}/proxy/{rest}", self.service));
        }
        let (pod, tail) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = !pod.is_empty() && pod.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (what == "pods" && is_name).then(|| format!("pods/{pod}:{ADMIN_PORT}/proxy/{tail}"))
    }
}

/// What came back.
struct Passed {
    status: u16,
    content_type: Option<String>,
    body: Bytes,
}

async fn pass_on(request: HttpRequest, body: Bytes, target: Data<Target>) -> HttpResponse {
    let Some(path) = target.path(request.uri().path()) else {
        return HttpResponse::NotFound().finish();
    };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    match ask(&target.client, &request, format!("{path}{query}"), body).await {
        Ok(passed) => {
            let status = StatusCode::from_u16(passed.status).unwrap_or(StatusCode::BAD_GATEWAY);
            let mut response = HttpResponse::build(status);
            if let Some(content_type) = passed.content_type {
                response.insert_header((CONTENT_TYPE, content_type));
            }
            response.body(passed.body)
        }
        Err(error) => {
            let status = match error.kind() {
                ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
                ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_GATEWAY,
            };
            HttpResponse::build(status).content_type("text/plain").body(chain(&error))
        }
    }
}

async fn ask(client: &KubernetesClient, request: &HttpRequest, path: String, body: Bytes) -> Result<Passed, PortError> {
    let method = request.method().as_str().to_owned();
    let headers: Vec<(&'static str, Vec<u8>)> = PASSED_HEADERS
        .into_iter()
        .filter_map(|name| Some((name, request.headers().get(name)?.as_bytes().to_vec())))
        .collect();
    let passed = client.call("asking through the API server", move |connection| {
        let uri = format!("/api/v1/namespaces/{}/{path}", connection.namespace);
        let mut outgoing = http::Request::builder().method(method.as_str()).uri(uri);
        for (name, value) in &headers {
            outgoing = outgoing.header(*name, value.as_slice());
        }
        let outgoing = outgoing.body(kube::client::Body::from(body.clone())).map_err(kube::Error::HttpError);
        async move {
            let response = connection.client.send(outgoing?).await?;
            let status = response.status().as_u16();
            let content_type = response.headers().get(http::header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body = response.into_body().collect_bytes().await?;
            Ok(Passed { status, content_type, body })
        }
    });
    let passed = passed.await?;
    if passed.status == 401 {
        // The service has no such answer: our credentials are refused, and may have been renewed.
        client.forget_connection().await;
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_service_is_named_until_its_address_is_known_and_a_configured_address_wins() {
        let settings = KubernetesSettings { service_port: 8000, ..KubernetesSettings::default() };
        let addresses = Addresses::new(&settings, None);
        assert_eq!(addresses.service_url(), "http://delay-ml.delayd.svc:8000");
        addresses.note_service(&json!({"spec": {"clusterIP": "None"}}));
        assert_eq!(addresses.service_url(), "http://delay-ml.delayd.svc:8000");
        addresses.note_service(&json!({"spec": {"clusterIP": "10.96.0.7"}}));
        assert_eq!(addresses.service_url(), "http://10.96.0.7:8000");
        addresses.note_service(&json!({"spec": {"clusterIP": "fd00::7"}}));
        assert_eq!(addresses.service_url(), "http://[fd00::7]:8000");
        let settings = KubernetesSettings { service_url: "https://delays.example/".to_owned(), ..settings };
        assert_eq!(Addresses::new(&settings, None).service_url(), "https://delays.example");
    }

    #[test]
    fn a_pod_without_an_address_has_no_url() {
        let addresses = Addresses::new(&KubernetesSettings::default(), None);
        assert_eq!(addresses.admin_url("p", None), "");
        assert_eq!(addresses.admin_url("p", Some("10.244.0.9")), "http://10.244.0.9:9090");
    }
}

#[cfg(test)]
mod proxy_tests {
    use super::*;
    use crate::cloud::kubernetes::KubernetesSettings;

    fn target() -> Target {
        let client = KubernetesClient::new(&KubernetesSettings::default()).unwrap();
        Target { client: Arc::new(client), key: "k3y".to_owned(), service: "delay-ml:80".to_owned() }
    }

    #[test]
    fn the_service_and_its_pods_are_reached_and_nothing_else() {
        let target = target();
        for (path, expected) in [
            ("/k3y/service/predict", Some("services/delay-ml:80/proxy/predict")),
            ("/k3y/service", Some("services/delay-ml:80/proxy/")),
            ("/k3y/pods/delay-ml-7c-x2/admin/v1/sketch", Some("pods/delay-ml-7c-x2:9090/proxy/admin/v1/sketch")),
            ("/other/service/predict", None),
            ("/k3y/secrets/token", None),
            ("/k3y/pods/../../secrets", None),
            ("/k3y/service/%2e%2E/x", None),
            ("/k3y/pods/a:1/x", None),
            ("/k3y/pods//x", None),
            ("/k3yservice/x", None),
            ("/", None),
        ] {
            assert_eq!(target.path(path).as_deref(), expected, "{path}");
        }
    }

    #[tokio::test]
    async fn without_an_api_server_the_answer_says_so_and_strangers_find_nothing() {
        let settings = KubernetesSettings { kubeconfig: "/nowhere/config".into(), ..KubernetesSettings::default() };
        let client = Arc::new(KubernetesClient::new(&settings).unwrap());
        let proxy = LoopbackProxy::start(client, "delay-ml", 80).unwrap();
        let http = delayd_core::http_client::client_builder().no_proxy().build().unwrap();
        let answer = http.get(format!("{}/predict", proxy.service_url())).send().await.unwrap();
        assert_eq!(answer.status(), 502);
        assert!(answer.text().await.unwrap().contains("/nowhere/config"));
        let root = proxy.service_url().rsplit_once('/').unwrap().0.rsplit_once('/').unwrap().0.to_owned();
        assert_eq!(http.get(format!("{root}/guess/service/predict")).send().await.unwrap().status(), 404);
    }
}
