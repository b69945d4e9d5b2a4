//! A web server with one document, which answers conditional requests (RFC 9110)
//! and can be told to misbehave.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

/// The path under which the document lies: part of a secret address.
pub const PATH: &str = "/private-0815/document";

#[derive(Debug, Clone, Default)]
pub struct Served {
    pub body: Vec<u8>,
    pub etag: Option<&'static str>,
    pub last_modified: Option<&'static str>,
    /// Answers so many requests with this status instead.
    pub refuses: Option<(usize, u16, Option<u64>)>,
}

#[derive(Default)]
struct State {
    served: Mutex<Served>,
    /// The status of every answer.
    answers: Mutex<Vec<u16>>,
}

pub struct DocumentServer {
    address: SocketAddr,
    state: Arc<State>,
    handle: ServerHandle,
}

impl DocumentServer {
    pub fn start(body: impl Into<Vec<u8>>) -> Self {
        let state = Arc::new(State::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let data = web::Data::from(state.clone());
        let server = HttpServer::new(move || App::new().app_data(data.clone()).route(PATH, web::get().to(document)));
        let server = server.workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        std::thread::spawn(move || actix_web::rt::System::new().block_on(server));
        let server = Self { address, state, handle };
        server.serve(Served { body: body.into(), etag: Some("\"v1\""), ..Served::default() });
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    pub fn serve(&self, served: Served) {
        *self.state.served.lock().unwrap() = served;
    }

    /// The document, with another tag than before.
    pub fn publish(&self, body: impl Into<Vec<u8>>, etag: &'static str) {
        self.serve(Served { body: body.into(), etag: Some(etag), ..Served::default() });
    }

    /// The statuses answered since the last time this was asked.
    pub fn take_answers(&self) -> Vec<u16> {
        std::mem::take(&mut *self.state.answers.lock().unwrap())
    }
}

impl Drop for DocumentServer {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn document(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    let mut served = state.served.lock().unwrap();
    let refusal = served.refuses.as_mut().filter(|(left, ..)| *left > 0).map(|(left, status, retry_after)| {
        *left -= 1;
        (*status, *retry_after)
    });
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let unchanged = match header(IF_NONE_MATCH) {
        Some(tag) => served.etag == Some(tag),
        None => header(IF_MODIFIED_SINCE).is_some_and(|date| served.last_modified == Some(date)),
    };
    let response = if let Some((status, retry_after)) = refusal {
        let mut response = HttpResponse::build(StatusCode::from_u16(status).unwrap());
        if let Some(secs) = retry_after {
            response.insert_header(("retry-after", secs.to_string()));
        }
        response.body("refused")
    } else if unchanged {
        HttpResponse::NotModified().finish()
    } else {
        let mut response = HttpResponse::Ok();
        if let Some(etag) = served.etag {
            response.insert_header((ETAG, etag));
        }
        if let Some(date) = served.last_modified {
            response.insert_header((LAST_MODIFIED, date));
        }
        response.body(served.body.clone())
    };
    state.answers.lock().unwrap().push(response.status().as_u16());
    response
}
