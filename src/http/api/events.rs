//! `/events`: the ledger's changes as server-sent events.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use delayd_http_limits::Client;
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::sync::watch;

use crate::http::access::Session;
use crate::http::error::Problem;
use crate::http::server::ApiState;
use delayd_core::error::chain;
use delayd_ledger::{Event, Ledger, LedgerError};

/// Streams that are open at a time.
const MOST_STREAMS: usize = 256;
/// Streams of one caller: whoever opens many leaves half of them to others. A browser that went on to another page is
/// noticed only at the next sign of life, so that somebody who turns pages quickly holds dozens.
const MOST_STREAMS_OF_ONE: usize = 128;
/// A comment is sent when nothing happened for so long, so that proxies keep the connection.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// Events read at a time.
const BATCH: u64 = 200;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/events").get(events));
}

/// The open streams: how many there may be, and whether the daemon stops.
#[derive(Debug, Clone)]
pub struct Streams {
    open: Arc<Mutex<HashMap<Caller, usize>>>,
    closing: Arc<watch::Sender<bool>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: Arc::default(), closing: Arc::new(watch::Sender::new(false)) }
    }
}

/// Who follows a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Caller {
    client: Client,
    name: String,
}

/// A stream's place among those that may be open; free again when this is dropped.
#[derive(Debug)]
struct Place {
    streams: Streams,
    caller: Caller,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        if let Some(count) = open.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.caller);
            }
        }
    }
}

impl Streams {
    fn take(&self, caller: Caller) -> Result<Place, Problem> {
        let mut open = self.open();
        let own = open.get(&caller).copied().unwrap_or(0);
        let text = if open.values().sum::<usize>() >= MOST_STREAMS {
            format!("{MOST_STREAMS} event streams are open, which is as many as there may be")
        } else if own >= MOST_STREAMS_OF_ONE {
            format!("{} has {MOST_STREAMS_OF_ONE} event streams open, which is as many as one may have", caller.name)
        } else {
            open.insert(caller.clone(), own + 1);
            drop(open);
            return Ok(Place { streams: self.clone(), caller });
        };
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(10))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Caller, usize>> {
        // Counts are sound even when another holder panicked.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every stream: the daemon stops, and clients should look for its successor.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// Where to begin.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Start {
    /// The last event that the client has seen; `Last-Event-ID` says the same. Without either only what happens from
    /// now on is told.
    #[param(minimum = 0, maximum = 9007199254740991_i64)]
    after: Option<u64>,
}

/// The ledger's changes as they are committed, as server-sent events: `id` is the event's number, `event` its kind, `data` the
/// event as JSON. The last 10,000 can be told again. A comment is sent every 15 s while nothing happens.
#[utoipa::path(get, path = "/api/v1/events", tag = "daemon", params(Start),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub(super) async fn events(
    state: web::Data<ApiState>,
    request: HttpRequest,
    session: web::ReqData<Session>,
    start: web::Query<Start>,
) -> Result<HttpResponse, Problem> {
    let place = state.streams.take(Caller {
        client: request.conn_data::<Client>().copied().unwrap_or(Client::Unknown),
        name: session.name.clone(),
    })?;
    let ledger = state.env.ledger.clone();
    // Subscribed before the first look: what is committed in between wakes the stream.
    let commits = ledger.commits();
    let newest = ledger.last_event().await?;
    let seen = match last_event_id(&request)?.or(start.after) {
        // A number from before a restored backup would wait for a long time.
        Some(seen) => seen.min(newest),
        None => newest,
    };
    let closing = state.streams.closing.subscribe();
    let follower = Follower { ledger, commits, closing, seen, waiting: VecDeque::new(), greeted: false, _place: place };
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(follower.stream()))
}

fn last_event_id(request: &HttpRequest) -> Result<Option<u64>, Problem> {
    let Some(value) = request.headers().get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "Last-Event-ID is not the number of an event"))
}

/// Follows the ledger for one client.
struct Follower {
    ledger: Ledger,
    commits: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    seen: u64,
    waiting: VecDeque<Event>,
    greeted: bool,
    _place: Place,
}

impl Follower {
    fn stream(self) -> impl Stream<Item = Result<web::Bytes, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let chunk = follower.next().await?;
            Some((Ok(web::Bytes::from(chunk)), follower))
        })
    }

    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<String> {
        if !self.greeted {
            self.greeted = true;
            // So that the client knows at once that it is connected, and how soon to come again.
            return Some("retry: 2000\n: the ledger's changes\n\n".to_owned());
        }
        loop {
            if *self.closing.borrow() {
                return None;
            }
            if let Some(event) = self.waiting.pop_front() {
                self.seen = event.id;
                return Some(text_of(&event));
            }
            self.commits.mark_unchanged();
            match self.read().await {
                Ok(false) => {}
                Ok(true) => continue,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "an event stream ends: the ledger cannot be read");
                    return None;
                }
            }
            tokio::select! {
                changed = self.commits.changed() => changed.ok()?,
                changed = self.closing.changed() => changed.ok()?,
                () = tokio::time::sleep(SIGN_OF_LIFE) => return Some(": nothing new\n\n".to_owned()),
            }
        }
    }

    async fn read(&mut self) -> Result<bool, LedgerError> {
        self.waiting = self.ledger.events_after(self.seen, BATCH).await?.into();
        Ok(!self.waiting.is_empty())
    }
}

fn text_of(event: &Event) -> String {
    // A struct of texts and numbers always has a form in JSON.
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.id, event.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_streams_to_others_and_closed_ones_are_free_again() {
        let streams = Streams::default();
        let caller = |name: &str| Caller { client: Client::Unknown, name: name.to_owned() };
        let mut held: Vec<Place> = (0..MOST_STREAMS_OF_ONE).map(|_| streams.take(caller("one")).unwrap()).collect();
        assert_eq!(streams.take(caller("one")).unwrap_err().status, 503);
        held.extend((0..MOST_STREAMS_OF_ONE).map(|_| streams.take(caller("other")).unwrap()));
        assert_eq!(streams.take(caller("third")).unwrap_err().status, 503, "there are as many as there may be");
        held.clear();
        assert!(streams.take(caller("one")).is_ok());
        assert!(streams.open().is_empty());
    }
}
