//! The statements, with the names of the tables in them.

use crate::{
    PostgresConfig,
    haste::{self, Haste},
};

pub(crate) struct Statements {
    pub(crate) claim: String,
    /// The same in haste: it waits for others' locks for a moment, and fails with all that is in it where that is too short.
    pub(crate) claim_in_haste: String,
    pub(crate) take_over: String,
    pub(crate) update: String,
    /// What most updates are, in haste.
    pub(crate) settle_in_haste: String,
    pub(crate) haste: Haste,
    pub(crate) delete: String,
    pub(crate) lookup: String,
    pub(crate) are_there: String,
    pub(crate) restore: String,
    pub(crate) prune: String,
    pub(crate) scan: String,
    pub(crate) watch: String,
    /// Where settled ids are told of.
    pub(crate) channel: String,
    /// The locks of ids in this table differ from those in another.
    lock_space: i64,
    /// Migrations in one schema exclude each other.
    pub(crate) schema_lock: i64,
    names: Names,
}

struct Names {
    records: String,
    about: String,
    outbox: String,
}

impl Statements {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        let PostgresConfig { schema, table, .. } = config;
        let names = Names {
            records: format!("{schema}.{table}"),
            about: format!("{schema}.{table}_about"),
            outbox: format!("{schema}.{table}_outbox"),
        };
        let (lock_space, schema_lock) = (hash(&names.records), hash(schema));
        let named = |statement: &str| names.put_into(statement);
        let claim = |is_free, waits| {
            named(include_str!("sql/claim.sql")).replace("{is_free}", is_free).replace("{waits}", waits)
        };
        Self {
            claim: claim("pg_try_advisory_xact_lock_shared(lock)", ""),
            claim_in_haste: claim("true", haste::FOR_A_MOMENT),
            take_over: named(include_str!("sql/take_over.sql")),
            update: named(include_str!("sql/update.sql")),
            settle_in_haste: named(include_str!("sql/settle.sql")).replace("{waits}", haste::FOR_A_MOMENT),
            haste: Haste::default(),
            delete: named(include_str!("sql/delete.sql")),
            lookup: named(include_str!("sql/lookup.sql")),
            are_there: named("SELECT id FROM {records} WHERE id = ANY($1::bytea[])"),
            restore: named(include_str!("sql/restore.sql")),
            prune: named(include_str!("sql/prune.sql")),
            scan: named(include_str!("sql/scan.sql")),
            watch: named(include_str!("sql/watch.sql")),
            channel: format!("{table}_settled"),
            lock_space,
            schema_lock,
            names,
        }
    }

    pub(crate) fn named(&self, statement: &str) -> String {
        self.names.put_into(statement)
    }

    /// The number under which an id is locked. Two ids with one number are as unlikely as two with one hash of 64 bits, and
    /// would be told to wait for each other. All of the id counts: whoever makes ids of his own may begin them all alike.
    pub(crate) fn lock_of(&self, id: &[u8; 32]) -> i64 {
        const MIXES: i64 = 0x2545_F491_4F6C_DD1D;
        id.as_chunks().0.iter().fold(self.lock_space, |sum, chunk: &[u8; 8]| {
            (sum.rotate_left(23) ^ i64::from_le_bytes(*chunk)).wrapping_mul(MIXES)
        })
    }
}

/// For numbers of locks, which need not be secret.
fn hash(name: &str) -> i64 {
    name.bytes().fold(0, |sum: i64, byte| sum.wrapping_mul(31).wrapping_add(i64::from(byte)))
}

impl Names {
    fn put_into(&self, statement: &str) -> String {
        statement
            .replace("{records}", &self.records)
            .replace("{about}", &self.about)
            .replace("{outbox}", &self.outbox)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_that_begin_or_end_alike_have_locks_of_their_own_in_each_table() {
        let mut locks = HashSet::new();
        for table in ["one", "two"] {
            let statements = Statements::new(&PostgresConfig::new("").table(table));
            for at in [0, 7, 8, 31] {
                for byte in 1..=255 {
                    let mut id = [b'0'; 32];
                    id[at] = byte;
                    locks.insert((table, id, statements.lock_of(&id)));
                }
            }
        }
        let ids: HashSet<_> = locks.iter().map(|(table, id, _)| (table, id)).collect();
        let numbers: HashSet<_> = locks.iter().map(|(_, _, number)| number).collect();
        assert_eq!(numbers.len(), ids.len());
    }
}
