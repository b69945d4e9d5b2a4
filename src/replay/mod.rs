//! `delayd replay`: history through the live loop, and what the loop was worth.

pub mod report;
