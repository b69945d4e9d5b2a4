//! A token server as Docker's distribution specifies it: it checks a password and
//! hands out signed tokens, which docker-registry checks for itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use delayd_core::clock::{Clock as _, SystemClock};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use serde_json::json;

use super::docker_registry::{PASSWORD, USER};
use super::http::{Reply, Request, serve};

pub const SERVICE: &str = "registry.test";
pub const ISSUER: &str = "token-server.test";

#[derive(Debug, Clone)]
pub struct Policy {
    /// Seconds that a token holds.
    pub lifetime_secs: i64,
    /// Actions that are granted, of those asked for.
    pub granted: Vec<&'static str>,
    /// Answer with this status instead.
    pub refuse: Option<u16>,
}

#[derive(Clone)]
pub struct TokenServer {
    pub address: SocketAddr,
    /// What docker-registry must trust.
    pub certificate_pem: String,
    pub policy: Arc<Mutex<Policy>>,
    /// The scopes asked for, call by call.
    pub asked: Arc<Mutex<Vec<Vec<String>>>>,
}

struct Signer {
    key: KeyPair,
    certificate: String,
}

impl TokenServer {
    pub async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["token-server.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let certificate_pem = certificate.pem();
        let signer = Arc::new(Signer { key, certificate: STANDARD.encode(certificate.der()) });
        let granted = vec!["pull", "push", "delete"];
        let policy = Arc::new(Mutex::new(Policy { lifetime_secs: 300, granted, refuse: None }));
        let asked: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let (now_policy, now_asked) = (policy.clone(), asked.clone());
        let address = serve(move |request| {
            let policy = now_policy.lock().unwrap().clone();
            now_asked.lock().unwrap().push(request.head.query("scope"));
            let reply = answer(&signer, &policy, &request);
            async move { reply }
        })
        .await;
        Self { address, certificate_pem, policy, asked }
    }

    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    pub fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn answer(signer: &Signer, policy: &Policy, request: &Request) -> Reply {
    if let Some(status) = policy.refuse {
        return Reply::refusal(status, "PLANNED", "planned refusal of the token server");
    }
    let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    if request.head.header("authorization") != Some(&expected) {
        return Reply::refusal(401, "UNAUTHORIZED", "who are you?");
    }
    let access: Vec<_> = request
        .head
        .query("scope")
        .iter()
        .map(|scope| {
            let parts: Vec<&str> = scope.splitn(3, ':').collect();
            let granted: Vec<&str> = parts[2].split(',').filter(|action| policy.granted.contains(action)).collect();
            json!({"type": parts[0], "name": parts[1], "actions": granted})
        })
        .collect();
    let now = SystemClock.now().timestamp();
    let claims = json!({
        "iss": ISSUER, "sub": USER, "aud": request.head.query("service").first(), "jti": "1",
        "iat": now, "nbf": now - 5, "exp": now + policy.lifetime_secs, "access": access,
    });
    let body = json!({"token": signer.token(&claims), "expires_in": policy.lifetime_secs.max(0)});
    Reply::new(200).header("content-type", "application/json").body(body.to_string())
}

impl Signer {
    fn token(&self, claims: &serde_json::Value) -> String {
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = fixed_width(&self.key.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// From ASN.1 (`SEQUENCE { INTEGER r, INTEGER s }`) to the two numbers of 32 bytes
/// that RFC 7518, section 3.4, wants.
fn fixed_width(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut out = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number: Vec<u8> = rest[2..2 + length].iter().copied().skip_while(|byte| *byte == 0).collect();
        out.extend(std::iter::repeat_n(0, 32 - number.len()));
        out.extend(number);
        rest = &rest[2 + length..];
    }
    out
}
