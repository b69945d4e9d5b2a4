//! Parquet files byte by byte, to say what no writer would: a few bytes that stand for any number of rows, and lengths
//! that lie.

const COLUMNS: [(&str, &str); 12] = [
    ("carrier", "UA"),
    ("flight_number", "1545"),
    ("origin", "EWR"),
    ("dest", "IAH"),
    ("scheduled_departure", "2013-01-01T10:15:00Z"),
    ("scheduled_arrival", "2013-01-01T14:19:00Z"),
    ("distance_miles", "1400"),
    ("departed_at", "2013-01-01T10:17:00Z"),
    ("arrived_at", "2013-01-01T14:30:00Z"),
    ("arrival_delay_minutes", "11"),
    ("cancelled", "false"),
    ("diverted", "false"),
];

/// Flights, all the same: each column has a dictionary of one value and one page that repeats it.
#[derive(Clone)]
pub struct Crafted {
    pub rows: i64,
    /// What the page headers say of the rows.
    pub page_rows: i64,
    /// What they say of the bytes of a page, where not the truth.
    pub page_bytes: Option<i64>,
    /// What they say of the dictionary.
    pub dictionary_values: i64,
    /// RLE_DICTIONARY; 7 is DELTA_BYTE_ARRAY.
    pub encoding: i64,
    /// How many row groups the footer says there are, where not the truth.
    pub stated_groups: Option<u64>,
    /// Groups within groups around another column.
    pub depth: usize,
    pub carrier: String,
}

impl Crafted {
    pub fn of(rows: i64) -> Self {
        Self {
            rows,
            page_rows: rows,
            page_bytes: None,
            dictionary_values: 1,
            encoding: 8,
            stated_groups: None,
            depth: 0,
            carrier: "UA".to_owned(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"PAR1".to_vec();
        let mut chunks = Vec::new();
        let mut schema = vec![structure(&[(4, bytes(b"flights")), (5, int(12 + i64::from(self.depth > 0)))])];
        for (name, value) in COLUMNS {
            let value = if name == "carrier" { self.carrier.as_bytes() } else { value.as_bytes() };
            schema.push(structure(&[(1, int(6)), (3, int(0)), (4, bytes(name.as_bytes())), (6, int(0))]));
            let start = file.len() as i64;
            let dictionary = [&(value.len() as u32).to_le_bytes()[..], value].concat();
            let about = structure(&[(1, int(self.dictionary_values)), (2, int(0))]);
            self.page(&mut file, 2, &dictionary, (7, (12, about)));
            let data_start = file.len() as i64;
            // One bit for each index into the dictionary; a run of them that are all 0.
            let data = [vec![1], varint((self.rows as u64) << 1), vec![0]].concat();
            let about = structure(&[(1, int(self.page_rows)), (2, int(self.encoding)), (3, int(3)), (4, int(3))]);
            self.page(&mut file, 0, &data, (5, (12, about)));
            let length = file.len() as i64 - start;
            let column = structure(&[
                (1, int(6)),
                (2, list(5, &[int(8).1, int(0).1])),
                (3, list(8, &[bytes(name.as_bytes()).1])),
                (4, int(0)),
                (5, int(self.rows)),
                (6, int(length)),
                (7, int(length)),
                (9, int(data_start)),
                (11, int(start)),
            ]);
            chunks.push(structure(&[(2, int(start)), (3, (12, column))]));
        }
        for level in 0..self.depth {
            let name = format!("level{level}");
            schema.push(structure(&[(3, int(1)), (4, bytes(name.as_bytes())), (5, int(1))]));
        }
        let group = structure(&[(1, list(12, &chunks)), (2, int(file.len() as i64)), (3, int(self.rows))]);
        let mut groups = list(12, &[group]);
        if let Some(stated) = self.stated_groups {
            groups.1 = [vec![0xfc], varint(stated), groups.1[1..].to_vec()].concat();
        }
        let footer = structure(&[(1, int(1)), (2, list(12, &schema)), (3, int(self.rows)), (4, groups)]);
        file.extend(&footer);
        file.extend((footer.len() as u32).to_le_bytes());
        file.extend(b"PAR1");
        file
    }

    fn page(&self, file: &mut Vec<u8>, kind: i64, body: &[u8], about: (i16, Field)) {
        let stated = self.page_bytes.unwrap_or(body.len() as i64);
        file.extend(structure(&[(1, int(kind)), (2, int(stated)), (3, int(body.len() as i64)), about]));
        file.extend(body);
    }
}

/// A type of Thrift's compact protocol, and the value's bytes.
type Field = (u8, Vec<u8>);

fn structure(fields: &[(i16, Field)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut last = 0;
    for (id, (kind, value)) in fields {
        out.push((((id - last) as u8) << 4) | kind);
        out.extend(value);
        last = *id;
    }
    out.push(0);
    out
}

fn int(value: i64) -> Field {
    (6, varint(((value << 1) ^ (value >> 63)) as u64))
}

fn bytes(value: &[u8]) -> Field {
    (8, [varint(value.len() as u64), value.to_vec()].concat())
}

fn list(kind: u8, values: &[Vec<u8>]) -> Field {
    let head = if values.len() < 15 {
        vec![((values.len() as u8) << 4) | kind]
    } else {
        [vec![0xf0 | kind], varint(values.len() as u64)].concat()
    };
    (9, [head, values.concat()].concat())
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}
