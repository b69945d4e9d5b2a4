//! The connection to a Kubernetes API server, for everybody who needs one.
//!
//! Nothing is read and nobody is asked before the first call. Credentials are
//! those of a kubeconfig or of the pod that we run in; after a refusal (401) or
//! when nobody answered, they are read again, so that a rotated token, certificate
//! or authority is noticed. Every call runs on a small runtime of the client's own:
//! an actor that dies and comes back must not take the connections with it.
//!
//! What the environment says of proxies (`HTTPS_PROXY`) is not followed: an API
//! server is reached directly.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Mutex;

use super::diagnosis::{is_transport, is_unauthorized, kubeconfig, of_call};
use super::settings::KubernetesSettings;
use delayd_core::error::{ErrorKind, PortError, chain};
use delayd_core::retry::{RetryPolicy, Retryable};

/// Calls altogether where the API server refuses for the moment.
const ATTEMPTS: u32 = 3;

/// A client with the namespace that it works in.
#[derive(Clone)]
pub(in crate::cloud) struct Connection {
    pub(in crate::cloud) client: kube::Client,
    /// As configured, or that of the credentials.
    pub(in crate::cloud) namespace: String,
}

/// A kind of object that lies in a namespace.
pub(in crate::cloud) trait Object:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + fmt::Debug
    + Send
    + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + 'static
{
}

/// A connection that is made when it is needed.
pub(crate) struct KubernetesClient {
    settings: KubernetesSettings,
    background: Background,
    connected: Mutex<Option<Connection>>,
}

impl fmt::Debug for KubernetesClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesClient").field("namespace", &self.settings.namespace).finish_non_exhaustive()
    }
}

/// The runtime that calls run on; it may be dropped anywhere.
struct Background {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Background {
    fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("kubernetes").enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a call ended that did not succeed.
enum Ending {
    /// Somebody answered, or nobody was there.
    Failed(kube::Error),
    /// No answer within the time for one.
    Silent,
    /// Our own side broke off.
    Broken(String),
}

/// The error of a call, and whether the same call may do at once.
struct CallFailure {
    error: PortError,
    again: bool,
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&self.error))
    }
}

impl Retryable for CallFailure {
    fn is_retryable(&self) -> bool {
        self.again
    }
}

impl KubernetesClient {
    /// A client of the API server that the settings name. Reads nothing and
    /// connects to nobody.
    pub(crate) fn new(settings: &KubernetesSettings) -> Result<Self, PortError> {
        let background =
            Background::start().map_err(|error| PortError::io("starting the Kubernetes client's thread", error))?;
        Ok(Self { settings: settings.clone(), background, connected: Mutex::new(None) })
    }

    /// The connection, made now if there is none. `action` goes into the error.
    pub(in crate::cloud) async fn connection(&self, action: &str) -> Result<Connection, PortError> {
        let mut connected = self.connected.lock().await;
        if let Some(connection) = &*connected {
            return Ok(connection.clone());
        }
        delayd_core::http_client::install_tls();
        let (settings, what) = (self.settings.clone(), action.to_owned());
        // Reads files, and may run a credential plugin.
        let made = self.background.handle.spawn_blocking(move || Handle::current().block_on(connect(&settings, &what)));
        let connection = match made.await {
            Ok(made) => made?,
            Err(error) => return Err(broken(action, &error.to_string())),
        };
        *connected = Some(connection.clone());
        Ok(connection)
    }

    /// Has the credentials read again before the next call.
    pub(in crate::cloud) async fn forget_connection(&self) {
        *self.connected.lock().await = None;
    }

    /// Makes a call that may be repeated: one that the API server refuses for the
    /// moment (429, 5xx) or does not hear is made again, a few times, quickly.
    ///
    /// # Errors
    /// `Unavailable` when nobody answers in time, else what the answer stands for.
    pub(in crate::cloud) async fn call<T, F>(
        &self,
        action: &str,
        work: impl Fn(Connection) -> F + Send + Sync,
    ) -> Result<T, PortError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, kube::Error>> + Send + 'static,
    {
        let pause = Duration::from_millis(self.settings.retry_pause_ms);
        let policy = RetryPolicy { attempts: ATTEMPTS, base_delay: pause, max_delay: pause * 4 };
        let attempt = || async {
            let connection = self.connection(action).await.map_err(|error| CallFailure { error, again: false })?;
            match self.once(work(connection)).await {
                Ok(value) => Ok(value),
                Err(ending) => Err(self.judge(action, ending).await),
            }
        };
        policy.run(attempt).await.map_err(|failure| failure.error)
    }

    /// The object of this name in the namespace, if it is there.
    pub(in crate::cloud) async fn find<K: Object>(&self, action: &str, name: &str) -> Result<Option<K>, PortError> {
        let found = self.call(action, |connection| {
            let name = name.to_owned();
            async move { Api::<K>::namespaced(connection.client, &connection.namespace).get_opt(&name).await }
        });
        found.await
    }

    /// The objects in the namespace that `which` selects.
    pub(in crate::cloud) async fn list<K: Object>(
        &self,
        action: &str,
        which: &ListParams,
    ) -> Result<Vec<K>, PortError> {
        let found = self.call(action, |connection| {
            let which = which.clone();
            async move { Api::<K>::namespaced(connection.client, &connection.namespace).list(&which).await }
        });
        Ok(found.await?.items)
    }

    /// Deletes an object; one that is not there is no error.
    pub(in crate::cloud) async fn delete<K: Object>(
        &self,
        action: &str,
        name: &str,
        how: &DeleteParams,
    ) -> Result<(), PortError> {
        let deleted = self.call(action, |connection| {
            let (name, how) = (name.to_owned(), how.clone());
            async move {
                let api = Api::<K>::namespaced(connection.client, &connection.namespace);
                api.delete(&name, &how).await.map(|_| ())
            }
        });
        match deleted.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    async fn once<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>> + Send + 'static,
    ) -> Result<T, Ending> {
        let limit = Duration::from_secs(self.settings.request_timeout_secs);
        match self.background.handle.spawn(async move { tokio::time::timeout(limit, call).await }).await {
            Ok(Ok(answer)) => answer.map_err(Ending::Failed),
            Ok(Err(_elapsed)) => Err(Ending::Silent),
            Err(error) => Err(Ending::Broken(error.to_string())),
        }
    }

    async fn judge(&self, action: &str, ending: Ending) -> CallFailure {
        match ending {
            Ending::Failed(error) => {
                if is_unauthorized(&error) || is_transport(&error) {
                    self.forget_connection().await;
                }
                let error = of_call(action, &error);
                let again = error.kind() == ErrorKind::Unavailable;
                CallFailure { error, again }
            }
            Ending::Silent => {
                self.forget_connection().await;
                let message = format!("the API server did not answer within {} s", self.settings.request_timeout_secs);
                // It is unavailable rather than slow: whoever waits for outages should wait for this one.
                CallFailure { error: PortError::new(ErrorKind::Unavailable, action, message), again: false }
            }
            Ending::Broken(message) => CallFailure { error: broken(action, &message), again: false },
        }
    }
}

fn broken(action: &str, message: &str) -> PortError {
    PortError::new(ErrorKind::Interrupted, action, format!("the Kubernetes client's thread broke off: {message}"))
}

async fn connect(settings: &KubernetesSettings, action: &str) -> Result<Connection, PortError> {
    let invalid = |message: String| PortError::new(ErrorKind::Invalid, action, message);
    let mut config = read_config(settings).await.map_err(invalid)?;
    config.connect_timeout = Some(Duration::from_secs(settings.connect_timeout_secs));
    config.read_timeout = Some(Duration::from_secs(settings.request_timeout_secs));
    config.reset_reader_on_write = true;
    // Refusals are counted and told here, not hidden for minutes.
    config.default_retry = false;
    config.proxy_url = None;
    if config.accept_invalid_certs {
        tracing::warn!("the kubeconfig asks not to check the API server's certificate (insecure-skip-tls-verify)");
    }
    let agent = HeaderValue::from_static(concat!("delayd/", env!("CARGO_PKG_VERSION")));
    config.headers.push((HeaderName::from_static("user-agent"), agent));
    let namespace = match settings.namespace.as_str() {
        "" => config.default_namespace.clone(),
        named => named.to_owned(),
    };
    let client = kube::Client::try_from(config).map_err(|error| of_call(action, &error))?;
    Ok(Connection { client, namespace })
}

async fn read_config(settings: &KubernetesSettings) -> Result<kube::Config, String> {
    let file = if !settings.kubeconfig.as_os_str().is_empty() {
        Some(Kubeconfig::read_from(&settings.kubeconfig))
    } else if std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty()) {
        Some(Kubeconfig::read())
    } else if Path::new(IN_CLUSTER_TOKEN).exists() {
        None
    } else {
        Some(Kubeconfig::read())
    };
    let Some(file) = file else {
        return kube::Config::incluster().map_err(|error| format!("credentials of this pod: {}", chain(&error)));
    };
    let file = file.map_err(|error| kubeconfig(&error))?;
    let context = Some(&settings.context).filter(|context| !context.is_empty()).cloned();
    refuse_proxy(&file, context.as_deref())?;
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|error| kubeconfig(&error))
}

/// Where the kubelet puts a pod's service account token
/// (kubernetes.io/docs/tasks/run-application/access-api-from-pod).
const IN_CLUSTER_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

fn refuse_proxy(file: &Kubeconfig, context: Option<&str>) -> Result<(), String> {
    let context = context.or(file.current_context.as_deref()).unwrap_or_default();
    let of_context = file.contexts.iter().find(|named| named.name == context).and_then(|named| named.context.as_ref());
    let cluster = of_context.and_then(|of| file.clusters.iter().find(|named| named.name == of.cluster));
    let proxy = cluster.and_then(|named| named.cluster.as_ref()?.proxy_url.as_deref());
    match proxy.filter(|url| !url.is_empty()) {
        None => Ok(()),
        Some(_) => Err(format!(
            "the kubeconfig's context `{context}` names a proxy-url, which is not supported; use a context that \
             reaches the API server directly"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(kubeconfig: &str) -> (tempfile::TempDir, KubernetesClient) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, kubeconfig).unwrap();
        let settings = KubernetesSettings { kubeconfig: path, retry_pause_ms: 1, ..KubernetesSettings::default() };
        let client = KubernetesClient::new(&settings).unwrap();
        (folder, client)
    }

    fn kubeconfig(server: &str, more: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
             clusters: [{{name: c, cluster: {{server: \"{server}\"{more}}}}}]\n\
             users: [{{name: u, user: {{token: s3cret}}}}]\n\
             contexts: [{{name: a, context: {{cluster: c, user: u, namespace: n}}}}]\n"
        )
    }

    async fn version(client: &KubernetesClient) -> Result<String, PortError> {
        client
            .call("asking for the version", |connection| async move {
                connection.client.apiserver_version().await.map(|info| info.git_version)
            })
            .await
    }

    #[tokio::test]
    async fn nothing_is_read_before_the_first_call_and_a_missing_file_is_named() {
        let settings = KubernetesSettings { kubeconfig: "/nowhere/config".into(), ..KubernetesSettings::default() };
        let client = KubernetesClient::new(&settings).unwrap();
        let error = version(&client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("/nowhere/config"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_an_outage_and_no_secret_is_told() {
        let (_folder, client) = client(&kubeconfig("http://127.0.0.1:1", ""));
        let error = version(&client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let shown = format!("{error} {error:?} {client:?}");
        assert!(shown.contains("cannot be reached") && !shown.contains("s3cret"), "{shown}");
    }

    #[tokio::test]
    async fn a_malformed_kubeconfig_is_told_by_its_place_without_its_content() {
        let (_folder, client) = client("apiVersion: v1\nusers: [{name: u, user: {token: s3cret}\ncontexts: [}");
        let error = version(&client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("kubeconfig") && !error.to_string().contains("s3cret"), "{error}");
    }

    #[tokio::test]
    async fn an_unknown_context_and_a_proxy_are_told() {
        let (_folder, client_with_proxy) =
            client(&kubeconfig("https://127.0.0.1:1", ", proxy-url: \"http://127.0.0.1:2\""));
        let error = version(&client_with_proxy).await.unwrap_err();
        assert!(error.to_string().contains("proxy-url"), "{error}");
        let (folder, _client) = client(&kubeconfig("https://127.0.0.1:1", ""));
        let settings = KubernetesSettings {
            kubeconfig: folder.path().join("config"),
            context: "elsewhere".to_owned(),
            ..KubernetesSettings::default()
        };
        let error = version(&KubernetesClient::new(&settings).unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("elsewhere"), "{error}");
    }

    #[tokio::test]
    async fn the_namespace_is_that_of_the_context_when_none_is_configured() {
        let (folder, _client) = client(&kubeconfig("https://127.0.0.1:1", ""));
        let of = async |namespace: &str| {
            let settings = KubernetesSettings {
                kubeconfig: folder.path().join("config"),
                namespace: namespace.to_owned(),
                ..KubernetesSettings::default()
            };
            KubernetesClient::new(&settings).unwrap().connection("connecting").await.unwrap().namespace
        };
        assert_eq!((of("").await, of("mine").await), ("n".to_owned(), "mine".to_owned()));
    }
}
