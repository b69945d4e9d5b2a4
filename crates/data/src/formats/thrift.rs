//! Thrift's compact protocol as far as Parquet's footers and page headers use it.
//!
//! Polars reserves memory by the lengths that a footer states and reads fields by their number, whatever type
//! they state. A file that lies could so ask for any amount of memory, and a failed allocation ends the process.
//! Here the same bytes are read before Polars sees them: within bounds, and by a table of the types that Polars
//! expects ([`Kind`]), so that both read the same. It decodes no data.
//!
//! Formats: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md> and
//! <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

/// Structures within structures, at most; Parquet's own nest seven deep.
const MAX_DEPTH: usize = 12;

/// A value with its type.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// A field that is true or false.
    Bool,
    /// One byte.
    Byte,
    /// An integer of 16 to 64 bits.
    Int(i64),
    /// A floating-point number.
    Double,
    /// Bytes or text.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Self>),
    /// Fields by number, ascending.
    Struct(Vec<(i16, Self)>),
}

impl<'a> Value<'a> {
    /// A field of a structure.
    pub(super) fn field(&self, id: i16) -> Option<&Self> {
        let Self::Struct(fields) = self else { return None };
        fields.iter().find(|(known, _)| *known == id).map(|(_, value)| value)
    }

    /// A field that is an integer.
    pub(super) fn int(&self, id: i16) -> Option<i64> {
        if let Some(Self::Int(value)) = self.field(id) { Some(*value) } else { None }
    }

    /// A field that is a list; an empty one where it is missing.
    pub(super) fn list(&self, id: i16) -> &[Self] {
        if let Some(Self::List(values)) = self.field(id) { values } else { &[] }
    }
}

/// What a value must be.
pub(super) enum Kind {
    /// [`Value::Bool`].
    Bool,
    /// [`Value::Byte`].
    Byte,
    /// [`Value::Int`].
    Int,
    /// [`Value::Bytes`].
    Bytes,
    /// A list of such values.
    List(&'static Self),
    /// A structure with these fields, each optional; others may be anything, except in a structure without any.
    Struct(&'static [(i16, Self)]),
}

impl Kind {
    /// Whether a value is of this kind, with everything in it.
    pub(super) fn fits(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Bool, Value::Bool)
            | (Self::Byte, Value::Byte)
            | (Self::Int, Value::Int(_))
            | (Self::Bytes, Value::Bytes(_)) => true,
            (Self::List(kind), Value::List(values)) => values.iter().all(|value| kind.fits(value)),
            (Self::Struct([]), Value::Struct(fields)) => fields.is_empty(),
            (Self::Struct(known), Value::Struct(fields)) => fields
                .iter()
                .all(|(id, value)| known.iter().find(|(of, _)| of == id).is_none_or(|(_, kind)| kind.fits(value))),
            _ => false,
        }
    }
}

const EMPTY: Kind = Kind::Struct(&[]);
const TIME_UNIT: Kind = Kind::Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]);
const TIME: Kind = Kind::Struct(&[(1, Kind::Bool), (2, TIME_UNIT)]);
const LOGICAL_TYPE: Kind = Kind::Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Kind::Struct(&[(1, Kind::Int), (2, Kind::Int)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Kind::Struct(&[(1, Kind::Byte), (2, Kind::Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
]);
const SCHEMA_ELEMENT: Kind = Kind::Struct(&[
    (1, Kind::Int),
    (2, Kind::Int),
    (3, Kind::Int),
    (4, Kind::Bytes),
    (5, Kind::Int),
    (6, Kind::Int),
    (7, Kind::Int),
    (8, Kind::Int),
    (9, Kind::Int),
    (10, LOGICAL_TYPE),
]);
const STATISTICS: Kind = Kind::Struct(&[
    (1, Kind::Bytes),
    (2, Kind::Bytes),
    (3, Kind::Int),
    (4, Kind::Int),
    (5, Kind::Bytes),
    (6, Kind::Bytes),
    (7, Kind::Bool),
    (8, Kind::Bool),
]);
const COLUMN_METADATA: Kind = Kind::Struct(&[
    (1, Kind::Int),
    (2, Kind::List(&Kind::Int)),
    (3, Kind::List(&Kind::Bytes)),
    (4, Kind::Int),
    (5, Kind::Int),
    (6, Kind::Int),
    (7, Kind::Int),
    (9, Kind::Int),
    (10, Kind::Int),
    (11, Kind::Int),
    (12, STATISTICS),
    (14, Kind::Int),
    (15, Kind::Int),
]);
const COLUMN_CHUNK: Kind = Kind::Struct(&[
    (1, Kind::Bytes),
    (2, Kind::Int),
    (3, COLUMN_METADATA),
    (4, Kind::Int),
    (5, Kind::Int),
    (6, Kind::Int),
    (7, Kind::Int),
]);
const SORTING_COLUMN: Kind = Kind::Struct(&[(1, Kind::Int), (2, Kind::Bool), (3, Kind::Bool)]);
const ROW_GROUP: Kind = Kind::Struct(&[
    (1, Kind::List(&COLUMN_CHUNK)),
    (2, Kind::Int),
    (3, Kind::Int),
    (4, Kind::List(&SORTING_COLUMN)),
    (5, Kind::Int),
    (6, Kind::Int),
    (7, Kind::Int),
]);
const KEY_VALUE: Kind = Kind::Struct(&[(1, Kind::Bytes), (2, Kind::Bytes)]);
const COLUMN_ORDER: Kind = Kind::Struct(&[(1, EMPTY), (2, EMPTY)]);

/// A file's footer, `FileMetaData`: 2 schema, 3 rows, 4 row groups.
pub(super) const FOOTER: Kind = Kind::Struct(&[
    (1, Kind::Int),
    (2, Kind::List(&SCHEMA_ELEMENT)),
    (3, Kind::Int),
    (4, Kind::List(&ROW_GROUP)),
    (5, Kind::List(&KEY_VALUE)),
    (6, Kind::Bytes),
    (7, Kind::List(&COLUMN_ORDER)),
]);

/// What stands before each page, `PageHeader`: 1 type, 2 unpacked and 3 packed bytes, then one of 5, 7, 8 by type.
pub(super) const PAGE_HEADER: Kind = Kind::Struct(&[
    (1, Kind::Int),
    (2, Kind::Int),
    (3, Kind::Int),
    (4, Kind::Int),
    (5, Kind::Struct(&[(1, Kind::Int), (2, Kind::Int), (3, Kind::Int), (4, Kind::Int), (5, STATISTICS)])),
    (6, EMPTY),
    (7, Kind::Struct(&[(1, Kind::Int), (2, Kind::Int), (3, Kind::Bool)])),
    (
        8,
        Kind::Struct(&[
            (1, Kind::Int),
            (2, Kind::Int),
            (3, Kind::Int),
            (4, Kind::Int),
            (5, Kind::Int),
            (6, Kind::Int),
            (7, Kind::Bool),
            (8, STATISTICS),
        ]),
    ),
]);

/// Reads structures one after the other.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values_left: usize,
}

impl<'a> Reader<'a> {
    /// A reader that stops after `max_values` fields and list elements.
    pub(super) fn new(bytes: &'a [u8], max_values: usize) -> Self {
        Self { bytes, at: 0, values_left: max_values }
    }

    /// Sets anew how many fields and list elements are read.
    pub(super) fn allow(&mut self, max_values: usize) {
        self.values_left = max_values;
    }

    /// Passes over bytes that are no structure.
    ///
    /// # Errors
    /// When there are fewer.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), String> {
        self.take(count).map(|_| ())
    }

    /// The next structure, which must be of this kind.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn structure(&mut self, kind: &Kind) -> Result<Value<'a>, String> {
        let value = self.fields(0)?;
        if kind.fits(&value) { Ok(value) } else { Err("a field has another type than the format gives it".to_owned()) }
    }

    fn fields(&mut self, depth: usize) -> Result<Value<'a>, String> {
        let mut fields = Vec::new();
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Value::Struct(fields));
            }
            // Numbers that do not ascend by less than 16 are allowed by Thrift, and not read alike by everybody.
            let step = i16::from(head >> 4);
            id = if step == 0 { None } else { id.checked_add(step) }
                .ok_or_else(|| "a field's number does not ascend".to_owned())?;
            let value = match head & 0x0f {
                1 | 2 => Value::Bool,
                kind => self.value(kind, depth)?,
            };
            self.count(1)?;
            fields.push((id, value));
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Value<'a>, String> {
        if depth >= MAX_DEPTH {
            return Err(format!("structures nest deeper than {MAX_DEPTH}"));
        }
        Ok(match kind {
            3 => {
                self.byte()?;
                Value::Byte
            }
            4..=6 => {
                let raw = self.varint()?;
                Value::Int((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
            }
            7 => {
                self.take(8)?;
                Value::Double
            }
            8 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            9 => self.list(depth)?,
            12 => self.fields(depth + 1)?,
            other => return Err(format!("the type {other} does not occur in Parquet")),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Value<'a>, String> {
        let head = self.byte()?;
        let size = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        // Counted before anything is reserved: an element takes a byte at least.
        let size = usize::try_from(size).ok().filter(|size| *size <= self.bytes.len() - self.at);
        let size = size.ok_or_else(|| "a list states more elements than bytes follow".to_owned())?;
        self.count(size)?;
        let mut values = Vec::with_capacity(size);
        for _ in 0..size {
            values.push(match head & 0x0f {
                1 | 2 => {
                    self.byte()?;
                    Value::Bool
                }
                kind => self.value(kind, depth + 1)?,
            });
        }
        Ok(Value::List(values))
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.values_left =
            self.values_left.checked_sub(values).ok_or_else(|| "there are too many fields and elements".to_owned())?;
        Ok(())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1).map(|bytes| bytes.first().copied().unwrap_or_default())
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| "it ends too early".to_owned())?;
        self.at += taken.len();
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        // The tenth byte of a number of 64 bits holds one bit.
        let byte = self.byte()?;
        if byte > 1 { Err("a number is too long".to_owned()) } else { Ok(value | u64::from(byte) << 63) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_about_its_lengths_or_types_is_refused() {
        let read = |bytes: &[u8], kind: &Kind| Reader::new(bytes, 100).structure(kind).map(|_| ());
        const NUMBERS: Kind = Kind::Struct(&[(1, Kind::List(&Kind::Int))]);
        const TEXT: Kind = Kind::Struct(&[(1, Kind::Bytes)]);
        let deep = [&[0x1c_u8; 40][..], &[0; 40]].concat();
        let cases: [(&[u8], &Kind, &str); 9] = [
            (&[0x19, 0x25, 2, 4, 0], &NUMBERS, ""),
            (&[0x18, 2, b'a', b'b', 0], &TEXT, ""),
            (&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], &NUMBERS, "more elements than bytes"),
            (&[0x18, 0x7f, b'a', 0], &TEXT, "ends too early"),
            (&[0x18, 1, 0x19, 0], &NUMBERS, "another type"),
            (&[0x15, 2, 0x05, 2, 2, 0], &FOOTER, "does not ascend"),
            (&[0x1b, 0], &FOOTER, "does not occur"),
            (&[0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0], &FOOTER, "too long"),
            (&deep, &FOOTER, "nest deeper"),
        ];
        for (bytes, kind, expected) in cases {
            match read(bytes, kind) {
                Ok(()) => assert_eq!(expected, "", "{bytes:?} was taken"),
                Err(why) => assert!(!expected.is_empty() && why.contains(expected), "{bytes:?}: {why}"),
            }
        }
        let many = [&[0x19, 0xf3, 0x80, 0x02][..], &[0; 300]].concat();
        let why = Reader::new(&many, 100).structure(&Kind::Struct(&[(1, Kind::List(&Kind::Byte))])).unwrap_err();
        assert!(why.contains("too many"), "{why}");
    }
}
