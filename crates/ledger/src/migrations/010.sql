-- What was made of each source that was taken in: its canonical part, as the data stage describes it.
CREATE TABLE IF NOT EXISTS parts (
    source TEXT PRIMARY KEY,
    body   TEXT NOT NULL
) WITHOUT ROWID;
