//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): the trace that a
//! request belongs to is named in the log, so that a cycle's log and its replicas'
//! can be read together.

use actix_web::HttpRequest;

use crate::counters::Route;

/// The trace of a request, as its header tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace<'a> {
    trace_id: &'a str,
    parent_id: &'a str,
}

pub(crate) fn of(request: &HttpRequest) -> Option<Trace<'_>> {
    request.headers().get("traceparent")?.to_str().ok().and_then(parse)
}

/// `00-<32 hex>-<16 hex>-<2 hex>`; later versions may add more after it. Anything
/// else, and ids of zeros, count as no trace.
fn parse(header: &str) -> Option<Trace<'_>> {
    let mut parts = header.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let whole = version != "00" || parts.next().is_none();
    let formed = hex(version, 2) && version != "ff" && hex(trace_id, 32) && hex(parent_id, 16) && hex(flags, 2);
    let named = [trace_id, parent_id].iter().all(|id| id.bytes().any(|byte| byte != b'0'));
    (whole && formed && named).then_some(Trace { trace_id, parent_id })
}

impl Trace<'_> {
    /// Tells of the request: of probes and failures always, of clients' traffic, which
    /// may be a thousand requests a second, only where the log is talkative.
    pub(crate) fn log(&self, route: Route, status: u16, secs: f64, probe: bool) {
        let Self { trace_id, parent_id } = *self;
        let (route, duration_ms) = (route.label(), secs * 1_000.0);
        // A level is part of a log call's place in the code: it cannot be an argument.
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    trace.id = trace_id,
                    parent.id = parent_id,
                    http.route = route,
                    status,
                    duration_ms,
                    "request"
                )
            };
        }
        match (status, probe) {
            (500.., _) => log!(warn),
            (_, true) => log!(info),
            (_, false) => log!(debug),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_trace_only_in_the_form_that_w3c_prescribes() {
        let (trace_id, parent_id) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let whole = format!("00-{trace_id}-{parent_id}-01");
        assert_eq!(parse(&whole), Some(Trace { trace_id, parent_id }));
        assert!(parse(&format!("cc-{trace_id}-{parent_id}-01-later")).is_some(), "a later version");
        for (header, why) in [
            ("", "empty"),
            ("00-4bf92f-00f067aa0ba902b7-01", "short"),
            (&whole.to_uppercase(), "upper case"),
            (&format!("ff-{trace_id}-{parent_id}-01"), "forbidden version"),
            (&format!("{whole}-more"), "more than version 00 has"),
            (&whole.replace(trace_id, &"0".repeat(32)), "no trace"),
            (&whole.replace(parent_id, &"0".repeat(16)), "no parent"),
        ] {
            assert_eq!(parse(header), None, "{why}");
        }
    }
}
