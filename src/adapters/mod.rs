//! The outside world behind the ports: `local` needs nothing but this machine,
//! `wrap` adds behaviour to any adapter. Nothing here decides; the stages do.

pub mod local;
pub mod wrap;
