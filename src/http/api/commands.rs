//! Commands: what an administrator may ask of the loop.

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use super::parsed;
use crate::cycle::commands::{CommandAnswered, CommandKind, OperatorCommand};
use crate::http::access::{Session, Via};
use crate::http::error::{Problem, unread_body};
use crate::http::server::ApiState;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/{command:retrain|cancel|rollback|approve|reject|pause|resume}").post(command));
}

/// The body of a command.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CommandBody {
    /// In whose name, where that is somebody else than the session's own.
    #[schema(max_length = 200)]
    pub by: String,
    /// Why.
    #[schema(max_length = 2000)]
    pub why: String,
}

impl CommandBody {
    const LONGEST_BY: usize = 200;
    const LONGEST_WHY: usize = 2000;

    /// The body again, if its texts are no longer than they may be.
    pub(super) fn checked(self) -> Result<Self, Problem> {
        for (key, text, longest) in [("by", &self.by, Self::LONGEST_BY), ("why", &self.why, Self::LONGEST_WHY)] {
            if text.chars().count() > longest {
                let detail = format!("{key} has more than {longest} characters");
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
            }
        }
        Ok(self)
    }

    fn read(kind: Option<&str>, bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let media_type = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if media_type != Some("application/json") {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body: expected application/json"));
        }
        let body: Self = serde_json::from_slice(bytes).map_err(|error| Problem::of_json(&error))?;
        body.checked()
    }
}

/// A body that may be left out. What is there is read in earnest: `Option<Json<…>>`
/// would take a broken one for none.
impl FromRequest for CommandBody {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let bytes = web::Bytes::from_request(request, payload);
        let request = request.clone();
        Box::pin(async move {
            let bytes = bytes.await.map_err(|error| unread_body(&error, &request))?;
            Ok(Self::read(kind.as_deref(), &bytes)?)
        })
    }
}

/// Under which name a deed is noted: the session's, and who it says it acts for.
pub(super) fn doer(session: &Session, by: &str) -> String {
    if by.is_empty() || by == session.name {
        session.name.clone()
    } else if session.via == Via::Socket {
        // `sudo delayd retrain --by alice`: the user of the socket vouches for it.
        format!("{by} ({})", session.name)
    } else {
        format!("{} for {by}", session.name)
    }
}

/// Asks something of the loop: retrain now, stop the cycle under way and undo it (`cancel`), go back to the previous model, approve or reject the release that waits,
/// pause, resume. Answers when it is done or under way; what does not fit what is under way is refused (409) and not
/// kept for later.
#[utoipa::path(post, path = "/api/v1/{command}", tag = "commands",
    params(("command" = CommandKind, Path, description = "What is asked.")),
    request_body = Option<CommandBody>,
    responses((status = 200, body = CommandAnswered)))]
pub(super) async fn command(
    state: web::Data<ApiState>,
    session: web::ReqData<Session>,
    name: web::Path<String>,
    body: CommandBody,
) -> Result<HttpResponse, Problem> {
    let command: CommandKind = parsed(&name)?;
    let CommandBody { by, why } = body;
    let by = doer(&session, &by);
    let answer = state.coordinator.ask(OperatorCommand { command, by, why }).await?;
    Ok(HttpResponse::Ok().json(answer))
}
