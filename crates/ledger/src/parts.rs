//! The canonical parts of sources, as the data stage describes them: to the ledger each is a text.

use rusqlite::params;

use super::query;
use super::records::{Reads, Records, Writes};
use delayd_core::ids::Digest;

impl<W: Writes> Records<W> {
    /// Notes what was made of sources; what was noted of them before is replaced.
    pub fn save_parts(&self, parts: Vec<(Digest, String)>) -> W::Answer<()> {
        self.write("noting canonical parts", move |tx| {
            let sql = "INSERT INTO parts (source, body) VALUES (?1, ?2) ON CONFLICT (source) DO UPDATE SET body = ?2";
            let mut statement = tx.prepare_cached(sql)?;
            parts.iter().try_for_each(|(source, part)| statement.execute(params![source, part]).map(drop))
        })
    }
}

impl<R: Reads> Records<R> {
    /// What was made of each source.
    pub fn parts(&self) -> R::Answer<Vec<(Digest, String)>> {
        self.read("reading canonical parts", |c| {
            query::all(c, "SELECT source, body FROM parts", [], |row| Ok((row.get("source")?, row.get("body")?)))
        })
    }
}
