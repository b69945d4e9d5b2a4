//! Who asks, and what they may do.
//!
//! Three ways lead to the endpoint: the local socket (whoever may write to its file
//! is an operator), a bearer token (its role), and a loopback address without one
//! (`http.loopback_role`). Everything else is refused. What is asked too often is
//! refused too. No token is ever logged or answered.

mod guard;
mod limits;
mod session;

pub(super) use guard::guard;
pub use session::{Access, Session, Via};
