//! From a connection and its headers to a name and a role.

use std::net::IpAddr;

use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HOST};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::limits::Limits;
use crate::config::{HttpSettings, Role};
use crate::http::error::Problem;
use delayd_core::error::chain;

/// How somebody reached the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// The local socket.
    Socket,
    /// A bearer token.
    Token,
    /// A loopback address, without a token.
    Loopback,
}

/// Who asks: `GET /api/v1/session`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Session {
    /// The token's name, or the local user's.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How they came.
    pub via: Via,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum Peer {
    /// A process of this machine, by the local socket.
    Local {
        /// The user's number.
        uid: u32,
    },
    /// Somebody at an address.
    Address(IpAddr),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { uid } => write!(f, "uid {uid}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// What decides on access.
#[derive(Debug)]
pub struct Access {
    settings: HttpSettings,
    pub(super) limits: Limits,
}

impl Access {
    /// Access as configured.
    #[must_use]
    pub fn new(settings: HttpSettings) -> Self {
        let limits = Limits::new(settings.requests_per_second, settings.request_burst);
        Self { settings, limits }
    }

    pub(super) fn open_metrics(&self) -> bool {
        self.settings.open_metrics
    }

    /// Who asks.
    ///
    /// # Errors
    /// 401 without a token where one is needed or with a wrong one, 421 for a
    /// loopback request that names another host, 429 after too many wrong tokens.
    pub(super) fn session(&self, peer: &Peer, headers: &Headers<'_>) -> Result<Session, Problem> {
        if let Some(token) = headers.bearer()? {
            return self.by_token(peer, token);
        }
        match peer {
            Peer::Local { uid } => Ok(Session { name: user_name(*uid), role: Role::Operator, via: Via::Socket }),
            Peer::Address(address) if address.is_loopback() => {
                // A page of another site may have its own name resolve to this machine.
                if !headers.names_this_machine() {
                    let text = "without a token this address answers to the names localhost, 127.0.0.1 and [::1] only";
                    return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, text));
                }
                Ok(Session { name: "loopback".to_owned(), role: self.settings.loopback_role, via: Via::Loopback })
            }
            Peer::Address(_) => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "a token is needed from here: send `Authorization: Bearer TOKEN` with one of http.tokens",
            )),
        }
    }

    fn by_token(&self, peer: &Peer, given: &str) -> Result<Session, Problem> {
        let given = Sha256::digest(given.as_bytes());
        for known in &self.settings.tokens {
            let secret = match known.reveal() {
                Ok(secret) => secret,
                Err(error) => {
                    tracing::error!(token.name = known.name, error = chain(&error), "a token cannot be used");
                    continue;
                }
            };
            // Digests, so that the time of the comparison tells nothing of the token.
            if Sha256::digest(secret.as_bytes()) == given {
                return Ok(Session { name: known.name.clone(), role: known.role, via: Via::Token });
            }
        }
        self.limits.wrong_token(peer)?;
        Err(Problem::new(StatusCode::UNAUTHORIZED, "this token is not one of http.tokens"))
    }
}

/// The headers that say who asks.
pub(super) struct Headers<'a>(pub(super) &'a actix_web::http::header::HeaderMap);

impl<'a> Headers<'a> {
    fn bearer(&self) -> Result<Option<&'a str>, Problem> {
        let Some(value) = self.0.get(AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        token.map(Some).ok_or_else(|| {
            Problem::new(StatusCode::UNAUTHORIZED, "the Authorization header has another form than `Bearer TOKEN`")
        })
    }

    fn names_this_machine(&self) -> bool {
        let Some(host) = self.0.get(HOST).and_then(|host| host.to_str().ok()) else { return true };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Whether a browser says that another site's page asks.
    pub(super) fn asked_by_another_site(&self) -> bool {
        let text = |name: &str| self.0.get(name).and_then(|value| value.to_str().ok());
        if let Some(site) = text("sec-fetch-site") {
            return !matches!(site, "same-origin" | "none");
        }
        match (text("origin"), text("host")) {
            (Some(origin), Some(host)) => origin.split_once("://").is_none_or(|(_, authority)| authority != host),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        // Users without an entry, as in a container, have a number only.
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TokenSettings;
    use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
    use delayd_core::secret::Secret;

    const TOKEN: &str = "a-token-of-forty-characters-or-thereabout";

    fn access(loopback_role: Role) -> Access {
        let tokens = vec![TokenSettings { name: "ops".to_owned(), role: Role::Operator, token: Secret::new(TOKEN) }];
        Access::new(HttpSettings { loopback_role, tokens, ..HttpSettings::default() })
    }

    fn headers(given: &[(&str, &str)]) -> HeaderMap {
        let entry =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        given.iter().map(entry).collect()
    }

    fn outcome(peer: &str, given: &[(&str, &str)]) -> String {
        let peer = Peer::Address(peer.parse().unwrap());
        match access(Role::Viewer).session(&peer, &Headers(&headers(given))) {
            Ok(session) => format!("{} {}", session.name, session.role),
            Err(problem) => problem.status.to_string(),
        }
    }

    #[test]
    fn a_name_and_a_role_follow_from_the_way_in() {
        let bearer = format!("Bearer {TOKEN}");
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
        let cases: &[Case<'_>] = &[
            ("127.0.0.1", &[("host", "localhost:7070")], "loopback viewer"),
            ("::1", &[("host", "[::1]:7070")], "loopback viewer"),
            // DNS rebinding: a foreign name that leads here.
            ("127.0.0.1", &[("host", "evil.example:7070")], "421"),
            ("192.0.2.7", &[("host", "delayd.example")], "401"),
            ("192.0.2.7", &[("authorization", &bearer)], "ops operator"),
            ("127.0.0.1", &[("authorization", &bearer), ("host", "any.example")], "ops operator"),
            // A wrong token is not no token, not even here.
            ("127.0.0.1", &[("authorization", "Bearer wrong"), ("host", "localhost")], "401"),
            ("127.0.0.1", &[("authorization", "Basic b3BzOm9wcw=="), ("host", "localhost")], "401"),
        ];
        for (peer, given, expected) in cases {
            assert_eq!(outcome(peer, given), *expected, "{peer} {given:?}");
        }
    }

    #[test]
    fn whoever_may_write_to_the_socket_is_an_operator_under_their_own_name() {
        let session = access(Role::Viewer).session(&Peer::Local { uid: 0 }, &Headers(&headers(&[]))).unwrap();
        assert_eq!((session.name.as_str(), session.role, session.via), ("root", Role::Operator, Via::Socket));
    }

    #[test]
    fn guessing_tokens_is_slowed_down_for_the_one_who_guesses() {
        let access = access(Role::Viewer);
        let (guesser, other) =
            (Peer::Address("192.0.2.7".parse().unwrap()), Peer::Address("192.0.2.8".parse().unwrap()));
        let wrong = headers(&[("authorization", "Bearer guess")]);
        let status = |peer: &Peer| access.session(peer, &Headers(&wrong)).unwrap_err().status;
        let first: Vec<u16> = (0..12).map(|_| status(&guesser)).collect();
        assert_eq!((first[0], first[11]), (401, 429), "{first:?}");
        assert_eq!(status(&other), 401);
    }

    #[test]
    fn a_page_of_another_site_is_recognised() {
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[("host", "localhost:7070")], false),
            (&[("host", "localhost:7070"), ("origin", "http://localhost:7070")], false),
            (&[("host", "localhost:7070"), ("origin", "https://evil.example")], true),
            (&[("host", "localhost:7070"), ("origin", "null")], true),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "cross-site")], true),
        ];
        for (given, expected) in cases {
            assert_eq!(Headers(&headers(given)).asked_by_another_site(), *expected, "{given:?}");
        }
    }
}
