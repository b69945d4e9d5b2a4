//! `/openapi.json`: the API's description, made from the handlers themselves.

use actix_web::{HttpResponse, web};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, SecurityRequirement};
use utoipa::{Modify, OpenApi};

use super::{alerts, commands, cycle_log, cycles, events, models, monitoring, releases, runs, status};
use crate::cycle::commands::CommandKind;
use crate::http::error::{PROBLEM, Problem};
use crate::stages::watch::WindowSeen;
use delayd_judge::decide::Weighed;
use delayd_judge::evaluation::gate::GateCheck;
use delayd_judge::monitoring::drift::DriftReport;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/openapi.json").get(openapi));
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "delayd",
        description = "Status and commands of a delayd daemon. Reading needs the role viewer, commands the role operator. \
                       Lists are newest first; `next_offset` is null at their end. Times are UTC."
    ),
    paths(
        status::status, status::session, status::audit, status::config_in_force, openapi, events::events,
        cycles::cycles, cycles::cycle, cycles::build_log, cycle_log::cycle_log, cycles::decisions, cycles::decision,
        runs::objects, runs::datasets, runs::refused_datasets, runs::dataset, runs::runs, runs::run,
        models::models, models::model, models::lineage, models::aliases,
        releases::image, releases::images, releases::deployments, releases::deployment, releases::verifications,
        monitoring::drift, monitoring::drift_by_feature, monitoring::drift_report, monitoring::monitoring, monitoring::reference,
        alerts::alerts, alerts::alert, alerts::retry, alerts::silences, alerts::silence, alerts::end_silence,
        commands::command
    ),
    components(schemas(Problem, CommandKind, DriftReport, WindowSeen, GateCheck, Weighed)),
    modifiers(&Common),
    tags(
        (name = "daemon", description = "The daemon itself."),
        (name = "cycles", description = "What the loop did, and why."),
        (name = "training", description = "What was learned from, and how."),
        (name = "models", description = "What was registered, and what is live."),
        (name = "releases", description = "What was pushed, released and found good."),
        (name = "monitoring", description = "What was seen in production."),
        (name = "alerts", description = "What was told, and to whom."),
        (name = "commands", description = "What an administrator may ask.")
    )
)]
struct Api;

/// What every operation shares: the token, and how it refuses.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("One of http.tokens.")).build();
        api.components.get_or_insert_with(Default::default).add_security_scheme("token", SecurityScheme::Http(scheme));
        let none: [String; 0] = [];
        // Either a token, or none: on the local socket, and to look from a loopback address.
        api.security = Some(vec![SecurityRequirement::new("token", none), SecurityRequirement::default()]);
        for path in api.paths.paths.values_mut() {
            let operations = [&mut path.get, &mut path.post, &mut path.delete].into_iter().filter_map(Option::as_mut);
            for operation in operations {
                for (status, text) in REFUSALS {
                    operation.responses.responses.entry(status.to_owned()).or_insert_with(|| refusal(text));
                }
            }
        }
    }
}

const REFUSALS: [(&str, &str); 12] = [
    ("400", "The request cannot be read."),
    ("401", "No token where one is needed, or a wrong one."),
    ("403", "The role does not allow it."),
    ("404", "It is not there."),
    ("405", "This cannot be done with it."),
    ("409", "It does not fit what is under way."),
    ("413", "The body is too long."),
    ("415", "The body is not JSON."),
    ("422", "A value is not what was expected."),
    ("429", "Asked too often; `Retry-After` tells when to come again."),
    ("500", "Something is wrong inside; the log has the request's name."),
    ("503", "Something that is needed is away."),
];

fn refusal(text: &str) -> RefOr<utoipa::openapi::Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(text).content(PROBLEM, content).build().into()
}

/// The API's description.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "daemon", responses((status = 200, body = Object)))]
pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok().json(document())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The routes and the document are written beside each other; nothing else keeps them together.
    #[test]
    fn every_registered_route_is_described() {
        let described = document().paths.paths.len();
        let sources = [
            include_str!("status.rs"),
            include_str!("cycles.rs"),
            include_str!("cycle_log.rs"),
            include_str!("runs.rs"),
            include_str!("models.rs"),
            include_str!("releases.rs"),
            include_str!("monitoring.rs"),
            include_str!("alerts.rs"),
            include_str!("events.rs"),
            include_str!("commands.rs"),
        ];
        let registered: usize = sources.iter().map(|text| text.matches("web::resource(").count()).sum();
        // This file's own route, which a search in this file would count too often.
        assert_eq!(described, registered + 1);
    }
}
