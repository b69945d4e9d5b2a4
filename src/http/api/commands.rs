//! Commands: what an administrator may ask of the loop.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::parsed;
use crate::coordinator::messages::{CommandAnswered, CommandKind, OperatorCommand};
use crate::coordinator::stages::ask;
use crate::http::access::{Session, Via};
use crate::http::error::Problem;
use crate::http::server::ApiState;

/// A command may take this long: a rollback replaces every replica.
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/{command:retrain|rollback|approve|reject|pause|resume}").post(command));
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

    /// The body, which may be left out.
    pub(super) fn checked(body: Option<web::Json<Self>>) -> Result<Self, Problem> {
        let body = body.map(web::Json::into_inner).unwrap_or_default();
        for (key, text, longest) in [("by", &body.by, Self::LONGEST_BY), ("why", &body.why, Self::LONGEST_WHY)] {
            if text.chars().count() > longest {
                let detail = format!("{key} has more than {longest} characters");
                return Err(Problem::new(actix_web::http::StatusCode::UNPROCESSABLE_ENTITY, detail));
            }
        }
        Ok(body)
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

/// Asks something of the loop: retrain now, go back to the previous model, approve or reject the release that waits,
/// pause, resume. Answers when it is done or under way.
#[utoipa::path(post, path = "/api/v1/{command}", tag = "commands",
    params(("command" = CommandKind, Path, description = "What is asked.")),
    request_body = Option<CommandBody>,
    responses((status = 200, body = CommandAnswered)))]
pub(super) async fn command(
    state: web::Data<ApiState>,
    session: web::ReqData<Session>,
    name: web::Path<String>,
    body: Option<web::Json<CommandBody>>,
) -> Result<HttpResponse, Problem> {
    let command: CommandKind = parsed(&name)?;
    let CommandBody { by, why } = CommandBody::checked(body)?;
    let by = doer(&session, &by);
    let answer = ask(&state.coordinator, OperatorCommand { command, by, why }, COMMAND_DEADLINE).await?;
    Ok(HttpResponse::Ok().json(answer))
}
