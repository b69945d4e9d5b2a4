//! A registry that keeps to the letter of the distribution spec where Debian's
//! docker-registry 2.8 does not: pieces must fit `Content-Range`, and a smallest piece
//! can be asked for. It holds one repository in memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use delayd_core::ids::Digest;

use super::http::{Reply, Request, serve};

#[derive(Debug, Default)]
pub struct State {
    pub uploads: HashMap<String, Vec<u8>>,
    pub blobs: HashMap<String, Vec<u8>>,
    pub manifests: HashMap<String, Vec<u8>>,
    next: usize,
}

#[derive(Debug, Clone)]
pub struct KeepingRegistry {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Every piece but the last must have so many bytes.
    pub min_chunk_bytes: usize,
    /// Uploads go to this address instead of the registry's own.
    pub upload_host: Option<SocketAddr>,
}

impl KeepingRegistry {
    pub async fn start(manners: Manners) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let kept = state.clone();
        let address = serve(move |request| {
            let reply = answer(&mut kept.lock().unwrap(), &manners, &request);
            async move { reply }
        })
        .await;
        Self { address, state }
    }
}

fn answer(state: &mut State, manners: &Manners, request: &Request) -> Reply {
    let path = request.head.path();
    if let Some((_, id)) = path.split_once("/blobs/uploads/") {
        return upload(state, manners, request, id);
    }
    if let Some((_, digest)) = path.split_once("/blobs/") {
        return Reply::new(if state.blobs.contains_key(digest) { 200 } else { 404 });
    }
    let Some((_, reference)) = path.split_once("/manifests/") else { return Reply::new(200) };
    match (request.head.method.as_str(), state.manifests.get(reference)) {
        ("PUT", _) => {
            let digest = Digest::of(&request.body).to_string();
            state.manifests.insert(reference.to_owned(), request.body.clone());
            state.manifests.insert(digest.clone(), request.body.clone());
            Reply::new(201).header("docker-content-digest", digest)
        }
        // No digest in the header: the client has to look for itself.
        ("GET" | "HEAD", Some(manifest)) => Reply::new(200).body(manifest.clone()),
        ("DELETE", Some(_)) => {
            state.manifests.remove(reference);
            Reply::new(202)
        }
        _ => Reply::refusal(404, "MANIFEST_UNKNOWN", "unknown"),
    }
}

fn upload(state: &mut State, manners: &Manners, request: &Request, id: &str) -> Reply {
    let host = manners.upload_host.map(|host| format!("http://{host}")).unwrap_or_default();
    let at = |id: &str| format!("{host}/v2/delay-ml/blobs/uploads/{id}");
    if request.head.method == "POST" {
        state.next += 1;
        let id = format!("upload-{}", state.next);
        state.uploads.insert(id.clone(), Vec::new());
        let reply = Reply::new(202).header("location", at(&id));
        return match manners.min_chunk_bytes {
            0 => reply,
            least => reply.header("oci-chunk-min-length", least.to_string()),
        };
    }
    let Some(received) = state.uploads.get_mut(id) else {
        return Reply::refusal(404, "BLOB_UPLOAD_UNKNOWN", "unknown");
    };
    let standing = |received: &[u8]| format!("0-{}", received.len().saturating_sub(1));
    match request.head.method.as_str() {
        "PATCH" => {
            let range = request.head.header("content-range").unwrap_or_default();
            if range.split('-').next() != Some(&received.len().to_string()) {
                return Reply::refusal(416, "RANGE_INVALID", "out of order").header("range", standing(received));
            }
            received.extend_from_slice(&request.body);
            Reply::new(202).header("location", at(id)).header("range", standing(received))
        }
        "PUT" => {
            received.extend_from_slice(&request.body);
            let blob = std::mem::take(received);
            state.uploads.remove(id);
            let digest = request.head.query("digest").remove(0);
            if !request.is_whole() || Digest::of(&blob).as_str() != digest {
                return Reply::refusal(400, "DIGEST_INVALID", "not what was said");
            }
            state.blobs.insert(digest, blob);
            Reply::new(201)
        }
        _ => Reply::new(405),
    }
}
