//! How ids and the ports' closed enums become columns of the ledger. It stands here, behind the feature `sql`,
//! because a trait of one crate can be implemented for a type of another only beside one of them.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};

use crate::document::Document;
use crate::ids::{AlertId, CycleId, DecisionId, DeploymentId, Digest, DriftReportId, ModelVersion, RunId, SilenceId};
use crate::ports::{Endpoint, ReferenceKind, Severity};

macro_rules! id_column {
    ($($id:ident),*) => {$(
        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                let number = i64::try_from(self.0)
                    .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
                Ok(ToSqlOutput::Owned(Value::Integer(number)))
            }
        }
        impl FromSql for $id {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                let number = value.as_i64()?;
                u64::try_from(number).map(Self).map_err(|_| FromSqlError::OutOfRange(number))
            }
        }
    )*};
}

id_column!(CycleId, ModelVersion, RunId, DeploymentId, DecisionId, DriftReportId, AlertId, SilenceId);

impl ToSql for Document {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let text = self.to_stored().map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        Ok(ToSqlOutput::Owned(Value::Text(text)))
    }
}

impl FromSql for Document {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_stored(value.as_str()?).map_err(|e| FromSqlError::Other(Box::new(e)))
    }
}

macro_rules! text_column {
    ($($text:ident),*) => {$(
        impl ToSql for $text {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::Owned(Value::Text(self.to_string())))
            }
        }
        impl FromSql for $text {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(|e| FromSqlError::Other(Box::new(e)))
            }
        }
    )*};
}

text_column!(Digest, Endpoint, ReferenceKind, Severity);
