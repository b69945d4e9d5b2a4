//! Where the service and its pods are reached, directly or through the API server.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::proxy::LoopbackProxy;
use super::settings::KubernetesSettings;
use super::templates::ADMIN_PORT;

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
