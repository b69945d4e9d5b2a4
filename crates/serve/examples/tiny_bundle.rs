//! Writes a small bundle, real in every part but its training, for trying `delayd-serve`
//! by hand and for the scripts that attack it: `tiny_bundle DIR`.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let dir: PathBuf = std::env::args_os().nth(1).ok_or("usage: tiny_bundle DIR")?.into();
    delayd_model::testing::tiny_bundle(1).write_to(&dir)?;
    Ok(())
}
