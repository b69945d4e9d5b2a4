//! The page: what an administrator opens in a browser. Plain HTML, CSS and JavaScript modules, embedded in the binary.
//! It shows what `/api/v1` says and judges nothing itself: what needs attention, which commands can be given, and what
//! is live and what serves all come from `/api/v1/status` and the listings.
//!
//! Only the empty page is served here, to anybody: it holds no data. The browser gets the data from the API, with the
//! token that was typed in. The files may load nothing from elsewhere; the policy they are sent with enforces it.

mod assets;

use actix_web::http::StatusCode;
use actix_web::http::header::{ETAG, HeaderMap, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};

use self::assets::{Asset, INDEX, asset};
use super::error::Problem;

/// Nothing but what this daemon serves: no script or style within the page, no other
/// host, no frame, no form that is sent anywhere, and no text that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// `GET /` and `GET /page/…`.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/").get(index).head(index))
        .service(web::resource("/page/{asset:.+}").get(part).head(part));
}

async fn index(request: HttpRequest) -> HttpResponse {
    served(request.headers(), &INDEX)
}

async fn part(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    let found =
        asset(&name).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("the page has no part {name}")))?;
    Ok(served(request.headers(), found))
}

/// A file of the page. Browsers ask each time whether theirs is still current: after an upgrade nobody sees half of the
/// old page.
fn served(asked: &HeaderMap, asset: &'static Asset) -> HttpResponse {
    let tag = asset.tag();
    let known = asked.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|tags| tags.contains(&tag));
    let mut answer = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer
        .insert_header((ETAG, tag))
        .insert_header(("Cache-Control", "no-cache"))
        .insert_header(("Content-Security-Policy", POLICY))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Referrer-Policy", "no-referrer"))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"))
        .insert_header(("Cross-Origin-Resource-Policy", "same-origin"))
        .insert_header(("Permissions-Policy", "camera=(), geolocation=(), microphone=()"));
    if known {
        return answer.finish();
    }
    answer.content_type(asset.kind()).body(asset.text)
}

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, init_service, read_body};
    use actix_web::{App, http::header};

    use super::*;

    #[actix_web::test]
    async fn the_page_is_served_with_a_policy_that_lets_nothing_else_in() {
        let app = init_service(App::new().configure(routes)).await;
        let answer = call_service(&app, TestRequest::get().uri("/").to_request()).await;
        assert_eq!(answer.status(), 200);
        let headers = answer.headers().clone();
        let told = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(told("content-type"), "text/html; charset=utf-8");
        assert!(told("content-security-policy").starts_with("default-src 'none'; script-src 'self';"));
        assert!(told("content-security-policy").contains("frame-ancestors 'none'"));
        assert_eq!(told("x-content-type-options"), "nosniff");
        assert_eq!(told("referrer-policy"), "no-referrer");
        assert!(read_body(answer).await.starts_with(b"<!doctype html>"));
    }

    #[actix_web::test]
    async fn what_a_browser_has_already_is_not_sent_again() {
        let app = init_service(App::new().configure(routes)).await;
        let first = call_service(&app, TestRequest::get().uri("/page/views/cycles.js").to_request()).await;
        assert_eq!(first.headers().get("content-type").unwrap(), "text/javascript; charset=utf-8");
        let tag = first.headers().get(header::ETAG).unwrap().clone();
        let again = TestRequest::get().uri("/page/views/cycles.js").insert_header((IF_NONE_MATCH, tag)).to_request();
        let second = call_service(&app, again).await;
        assert_eq!(second.status(), 304);
        assert!(read_body(second).await.is_empty());
    }

    #[actix_web::test]
    async fn what_the_page_does_not_have_is_not_found_whatever_is_asked() {
        let app = init_service(App::new().configure(routes)).await;
        for path in ["/page/nothing.js", "/page/../mod.rs", "/page/mod.rs", "/page/%2e%2e/%2e%2e/server.rs"] {
            let answer = call_service(&app, TestRequest::get().uri(path).to_request()).await;
            assert_eq!(answer.status(), 404, "{path}");
        }
    }
}
