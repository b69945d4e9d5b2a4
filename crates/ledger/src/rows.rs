//! What all tables share: how Rust values become columns (closed enums as text, times as microseconds since 1970, lists as
//! JSON text; ids, digests and documents know it themselves, `delayd_core::sql`), pages of a list, ids minted in sequence,
//! and small facts that outlive a restart.

use chrono::{DateTime, Utc};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::records::{Reads, Records, Writes};
use delayd_core::ids::{AlertId, CycleId, DecisionId, DeploymentId, DriftReportId, RunId, SilenceId};

/// A moment as it is stored: microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct At(pub(super) DateTime<Utc>);

impl ToSql for At {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Integer(self.0.timestamp_micros())))
    }
}

impl FromSql for At {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let micros = value.as_i64()?;
        DateTime::from_timestamp_micros(micros).map(Self).ok_or(FromSqlError::OutOfRange(micros))
    }
}

/// A document as it is stored: JSON text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> ToSql for Json<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = serde_json::to_string(&self.0).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        Ok(ToSqlOutput::Owned(Value::Text(text)))
    }
}

impl<T: DeserializeOwned> FromSql for Json<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        serde_json::from_str(value.as_str()?).map(Self).map_err(|e| FromSqlError::Other(Box::new(e)))
    }
}

/// A count as it is stored. SQLite's integers are signed; no count comes near
/// their end, and one that does is stored as the largest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count(pub(super) u64);

impl ToSql for Count {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(Value::Integer(i64::try_from(self.0).unwrap_or(i64::MAX))))
    }
}

impl FromSql for Count {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number).map(Self).map_err(|_| FromSqlError::OutOfRange(number))
    }
}

/// A text in the ledger that no known state is written as.
#[derive(Debug, thiserror::Error)]
#[error("`{found}` is not one of: {expected}")]
pub struct UnknownText {
    /// What was found.
    pub found: String,
    /// What would have been understood.
    pub expected: &'static str,
}

/// A closed enum whose text is the same in SQL, in JSON and for people.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// The text it is stored as.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some([$($text),*]))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::rows::UnknownText;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err($crate::rows::UnknownText {
                        found: text.to_owned(),
                        expected: concat!($($text, " "),*),
                    }),
                }
            }
        }

        impl rusqlite::types::ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl rusqlite::types::FromSql for $name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|e| rusqlite::types::FromSqlError::Other(Box::new(e)))
            }
        }
    };
}
pub(crate) use text_enum;

/// A part of a list that is sorted newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Page {
    /// How many of the newest to leave out.
    pub offset: u64,
    /// How many to answer at most.
    pub limit: u64,
}

impl Default for Page {
    fn default() -> Self {
        Self { offset: 0, limit: 50 }
    }
}

impl Page {
    /// The newest `limit` ones.
    #[must_use]
    pub fn newest(limit: u64) -> Self {
        Self { offset: 0, limit }
    }

    /// All of them.
    #[must_use]
    pub fn everything() -> Self {
        Self::newest(i64::MAX.unsigned_abs())
    }
}

/// An id that is minted before the thing it names exists.
pub trait SequenceName: Sized + Send + 'static {
    /// The sequence's name in the ledger.
    const NAME: &'static str;
    /// The id with this number.
    fn from_number(number: u64) -> Self;
}

macro_rules! sequence {
    ($($id:ident = $name:literal),* $(,)?) => {$(
        impl SequenceName for $id {
            const NAME: &'static str = $name;
            fn from_number(number: u64) -> Self {
                Self(number)
            }
        }
    )*};
}

sequence! {
    CycleId = "cycle",
    RunId = "run",
    DeploymentId = "deployment",
    DecisionId = "decision",
    DriftReportId = "drift_report",
    AlertId = "alert",
    SilenceId = "silence",
}

impl<W: Writes> Records<W> {
    /// Mints an id before the effect that it will name, so that the effect can
    /// be recognised when it is repeated.
    pub fn mint<I: SequenceName>(&self) -> W::Answer<I> {
        self.write("minting an id", move |tx| {
            let number: Count = tx.query_row(
                "INSERT INTO sequences (name, last) VALUES (?1, 1)
         ON CONFLICT (name) DO UPDATE SET last = last + 1 RETURNING last",
                [I::NAME],
                |row| row.get(0),
            )?;
            Ok(I::from_number(number.0))
        })
    }
}

/// All rows of a query, in its order.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    from_row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(parameters, |row| from_row(row))?.collect()
}

/// One row, or `None`.
pub(super) fn one<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    from_row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    connection.prepare_cached(sql)?.query_row(parameters, |row| from_row(row)).optional()
}

/// A page of `SELECT * FROM table`, sorted by `order`.
pub(super) fn page<T>(
    connection: &Connection,
    table: &str,
    order: &str,
    page: Page,
    from_row: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let sql = format!("SELECT * FROM {table} ORDER BY {order} LIMIT ?1 OFFSET ?2");
    all(connection, &sql, params![Count(page.limit), Count(page.offset)], from_row)
}

impl<W: Writes> Records<W> {
    /// Sets a setting.
    pub fn set_setting<T: Serialize + Send + 'static>(
        &self,
        name: &'static str,
        value: T,
        at: DateTime<Utc>,
    ) -> W::Answer<()> {
        self.write("changing a setting", move |tx| {
            tx.execute(
                "INSERT INTO settings (name, value, changed_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET value = ?2, changed_at = ?3",
                params![name, Json(value), At(at)],
            )?;
            Ok(())
        })
    }
}

impl<R: Reads> Records<R> {
    /// The value of a setting, or `None` where it was never set.
    pub fn setting<T: DeserializeOwned + Send + 'static>(&self, name: &'static str) -> R::Answer<Option<T>> {
        self.read("reading a setting", move |connection| {
            one(connection, "SELECT value FROM settings WHERE name = ?1", [name], |row| {
                row.get::<_, Json<T>>(0).map(|json| json.0)
            })
        })
    }
}
