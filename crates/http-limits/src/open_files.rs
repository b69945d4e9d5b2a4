//! How many files and connections this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asked for where the hard limit is infinite: the usual `fs.nr_open`, above which the kernel refuses.
const LARGEST_LIMIT: u64 = 1 << 20;

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) to the hard one, and answers the
/// limit that is in force then. Processes that are started later inherit it. The soft limit
/// is low for the sake of programs that use `select(2)`; none of ours does.
pub fn raise_open_file_limit() -> usize {
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.unwrap_or(LARGEST_LIMIT);
    let current = match before.current {
        Some(current) if current < wanted => {
            match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: before.maximum }) {
                Ok(()) => wanted,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        limit = current,
                        "the limit of open files stays as it is; raise it where the process is started"
                    );
                    current
                }
            }
        }
        Some(current) => current,
        None => LARGEST_LIMIT,
    };
    usize::try_from(current).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: hard }).unwrap();
        let raised = raise_open_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(raised as u64));
        assert_eq!(raised as u64, hard.unwrap_or(LARGEST_LIMIT));
    }
}
