//! Where the ledger's methods run: on its own thread for a [`Ledger`], at once for a [`Tx`] or a [`Snapshot`].
//!
//! Every method is written once, on [`Records`], for every place where it can run. A caller that needs one of them awaits
//! `ledger.promote(version, at)`, which is a transaction of its own; one that needs several together writes
//! `ledger.write("…", move |tx| { tx.promote(version, at)?; tx.set_deployment_state(…) })`.
//! What is only ever a part of a larger transaction is a method of [`Tx`] alone.

use std::ops::Deref;

use rusqlite::Connection;

/// The ledger's records, reached through a place: a ledger, an open transaction, a snapshot.
#[derive(Debug, Clone)]
pub struct Records<P>(pub(super) P);

/// An open writing transaction. SQL beside the methods goes to the [`Connection`] that it stands for.
pub type Tx<'c> = Records<InTransaction<'c>>;

/// An open reading transaction: everything in it sees one state.
pub type Snapshot<'c> = Records<InSnapshot<'c>>;

/// A place where records can be read.
pub trait Reads {
    /// How it answers: later, through a future, or at once.
    type Answer<T: Send + 'static>;

    /// Runs `f` on one state of the ledger. `what` names it in errors.
    fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Snapshot<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Self::Answer<T>;
}

/// A place where records can be written.
pub trait Writes: Reads {
    /// Runs `f` in one transaction: all of it is stored, or nothing. `what` names it in errors.
    fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Self::Answer<T>;

    /// [`Writes::write`] that answers only when what it stored is on the disk: for decisions, approvals, the audit and
    /// which model is live. A commit of those that a power cut took away would be forgotten; a step's would be
    /// repeated. Inside a larger transaction that one's begin decides.
    fn write_durably<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Self::Answer<T>;
}

impl<R: Reads> Records<R> {
    /// Runs `f` beside the writer, on everything that was committed before it began. A write inside `f` fails. `what`
    /// names it in errors.
    pub fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Snapshot<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> R::Answer<T> {
        self.0.read(what, f)
    }
}

impl<W: Writes> Records<W> {
    /// Runs `f` in one transaction: all of it is stored, or nothing. `f` should be short; it refuses with
    /// [`super::refuse`]. `what` names it in errors.
    pub fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> W::Answer<T> {
        self.0.write(what, f)
    }

    /// [`Records::write`] that answers only when what it stored is on the disk: see [`Writes::write_durably`].
    pub fn write_durably<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> W::Answer<T> {
        self.0.write_durably(what, f)
    }
}

/// The connection of a writing transaction.
#[derive(Debug, Clone, Copy)]
pub struct InTransaction<'c>(pub(super) &'c Connection);

/// The connection of a reading transaction.
#[derive(Debug, Clone, Copy)]
pub struct InSnapshot<'c>(pub(super) &'c Connection);

impl Reads for InSnapshot<'_> {
    type Answer<T: Send + 'static> = rusqlite::Result<T>;

    fn read<T: Send + 'static>(
        &self,
        _what: &'static str,
        f: impl FnOnce(&Snapshot<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        f(&Records(*self))
    }
}

impl Reads for InTransaction<'_> {
    type Answer<T: Send + 'static> = rusqlite::Result<T>;

    fn read<T: Send + 'static>(
        &self,
        _what: &'static str,
        f: impl FnOnce(&Snapshot<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        f(&Records(InSnapshot(self.0)))
    }
}

impl Writes for InTransaction<'_> {
    fn write<T: Send + 'static>(
        &self,
        _what: &'static str,
        f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        f(&Records(*self))
    }

    fn write_durably<T: Send + 'static>(
        &self,
        what: &'static str,
        f: impl FnOnce(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        self.write(what, f)
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0.0
    }
}

impl Deref for Snapshot<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.0.0
    }
}
