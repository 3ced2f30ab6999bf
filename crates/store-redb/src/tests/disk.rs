//! Files that cannot be used, are damaged or gone, and disks that fail.

use super::*;

#[track_caller]
fn refused(path: impl Into<RedbConfig>, kind: StoreErrorKind, message: &str) {
    let error = RedbStore::open(path).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(error.was_not_applied());
}

#[test]
fn a_file_that_cannot_be_used_is_a_clear_error_and_is_left_as_it_is() {
    let (folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    refused(&path, StoreErrorKind::Unavailable, "another process has the file open");
    drop(store);

    refused(folder.path().join("no/such/folder"), StoreErrorKind::Misconfigured, "cannot be opened");
    refused(folder.path(), StoreErrorKind::Misconfigured, "cannot be opened");

    let text = folder.path().join("text");
    fs::write(&text, "this is not a database, but somebody's precious notes\n".repeat(1000)).unwrap();
    refused(&text, StoreErrorKind::Corrupt, "no redb database");
    assert!(fs::read_to_string(&text).unwrap().starts_with("this is not a database"));
}

const META: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("meta");

/// Changes a file behind the store's back.
fn edit(path: &std::path::Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = redb::Database::open(path).unwrap();
    let txn = database.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
}

fn set_schema(txn: &redb::WriteTransaction, schema: u32) {
    txn.open_table(META).unwrap().insert("schema", &schema.to_le_bytes()[..]).unwrap();
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    let (_folder, path) = folder();
    drop(RedbStore::open(&path).unwrap());
    edit(&path, |txn| set_schema(txn, SCHEMA + 1));
    refused(&path, StoreErrorKind::Misconfigured, "the file has schema 3, and this version knows 2");
}

#[test]
fn a_file_of_the_version_before_is_taken_over() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    for number in 0..4 {
        block_on(store.insert(&claim(number), now())).unwrap();
    }
    block_on(store.update(&complete(0, "done"), now())).unwrap();
    drop(store);
    edit(&path, |txn| {
        let mut records = txn.open_table(SETTLED).unwrap();
        for running in txn.open_table(RUNNING).unwrap().iter().unwrap() {
            let (id, value) = running.unwrap();
            records.insert(id.value(), value.value()).unwrap();
        }
        txn.delete_table(RUNNING).unwrap();
        set_schema(txn, 1);
    });

    let store = RedbStore::open(&path).unwrap();
    assert!(matches!(block_on(store.insert(&rival(1), now())).unwrap(), Inserted::Exists(_)));
    assert_eq!(block_on(store.update(&complete(1, "done"), now())).unwrap(), Updated::Applied);
    assert_eq!(block_on(store.update(&change(2, Change::Release), now())).unwrap(), Updated::Applied);
    let scanned = block_on(store.scan(None, 10)).unwrap().records;
    let settled: Vec<_> = scanned.iter().map(|(id, record)| (*id, record.state.is_settled())).collect();
    assert_eq!(settled, [(id(0), true), (id(1), true), (id(3), false)]);
    drop(store);
    // It is of the later version from now on, and what runs has its own table once it is written.
    let store = RedbStore::open(&path).unwrap();
    let renew = Change::Renew { lease: HOUR, retention: HOUR };
    assert_eq!(block_on(store.update(&change(3, renew), now())).unwrap(), Updated::Applied);
    drop(store);
    let database = redb::Database::open(&path).unwrap();
    let txn = redb::ReadableDatabase::begin_read(&database).unwrap();
    let ids = |table: redb::TableDefinition<&[u8; 32], &[u8]>| -> Vec<[u8; 32]> {
        let records = txn.open_table(table).unwrap();
        records.iter().unwrap().map(|record| *record.unwrap().0.value()).collect()
    };
    assert_eq!(ids(RUNNING), [*id(3).as_bytes()]);
    assert_eq!(ids(SETTLED), [*id(0).as_bytes(), *id(1).as_bytes()]);
    drop((txn, database));
    let store = RedbStore::open(&path).unwrap();
    assert_eq!(block_on(store.prune(now() + 9 * HOUR, 10)).unwrap(), Pruned { deleted: 3, more: false });
}

#[test]
fn a_record_that_is_damaged_is_an_error_of_its_own() {
    let (_folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    block_on(store.insert(&claim(1), now())).unwrap();
    block_on(store.insert(&claim(2), now())).unwrap();
    drop(store);
    edit(&path, |txn| {
        let mut records = txn.open_table(RUNNING).unwrap();
        let mut value = records.get(id(1).as_bytes()).unwrap().unwrap().value().to_vec();
        *value.last_mut().unwrap() ^= 1;
        records.insert(id(1).as_bytes(), &value[..]).unwrap();
    });
    let store = RedbStore::open(&path).unwrap();
    let replies = block_on(
        store.apply(&[1, 2].map(|number| StoreCommand::Update(complete(number, "done").into())), now()),
    );
    assert!(matches!(&replies[0], Err(error) if error.kind() == StoreErrorKind::Corrupt));
    assert!(matches!(replies[1], Ok(StoreReply::Updated(Updated::Applied))));
    assert_eq!(block_on(store.lookup(&id(1), now())).unwrap_err().kind(), StoreErrorKind::Corrupt);
    // Left out of a scan it would be lost by whoever copies the records.
    assert_eq!(block_on(store.scan(None, 10)).unwrap_err().kind(), StoreErrorKind::Corrupt);
    // It expires like any other.
    assert_eq!(block_on(store.prune(now() + 9 * HOUR, 10)).unwrap().deleted, 2);
}

#[test]
fn a_damaged_file_is_an_error_or_opens_and_never_a_panic() {
    let (folder, path) = folder();
    let store = RedbStore::open(&path).unwrap();
    for number in 0..50 {
        block_on(store.insert(&claim(number), now())).unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged");
    let mut opened = 0;
    for round in 0..60usize {
        let mut bytes = whole.clone();
        if round % 3 == 0 {
            bytes.truncate(bytes.len() * round / 60);
        } else {
            let at = round * 7919 % bytes.len();
            let end = (at + 64).min(bytes.len());
            bytes[at..end].fill(0xa5);
        }
        fs::write(&damaged, bytes).unwrap();
        if let Ok(store) = RedbStore::open(&damaged) {
            opened += 1;
            for number in 0..50 {
                let _ = block_on(store.insert(&claim(number), now()));
                let _ = block_on(store.lookup(&id(number), now()));
            }
        }
    }
    assert!(opened > 0 && opened < 60, "{opened} of 60 could be opened");
}

/// A disk that can be full, or gone.
#[derive(Debug, Clone)]
struct Fickle {
    disk: Arc<InMemoryBackend>,
    full: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
}

impl Fickle {
    fn check(&self) -> std::io::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        match self.full.load(Ordering::SeqCst) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Fickle {
    fn len(&self) -> std::io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.check()?;
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.check()?;
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check()?;
        self.disk.write(offset, data)
    }
}

#[test]
fn a_full_disk_is_an_error_nothing_is_lost_and_it_goes_on_when_there_is_room() {
    let disk =
        Fickle { disk: Arc::new(InMemoryBackend::new()), full: Arc::default(), writes: Arc::default() };
    let opened = disk.clone();
    let disk_of_store =
        Disk::open_on(RedbConfig::new("in memory"), Duration::ZERO, move || opened.clone()).unwrap();
    let store = RedbStore::on(disk_of_store).unwrap();
    for number in 0..20 {
        block_on(store.insert(&claim(number), now())).unwrap();
    }
    disk.full.store(true, Ordering::SeqCst);
    for number in 20..25 {
        let error = block_on(store.insert(&claim(number), now())).unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Full | StoreErrorKind::Unavailable), "{error}");
        // A result is never refused for want of room: its body would be given up.
        let error = block_on(store.update(&complete(1, "done"), now())).unwrap_err();
        assert!(error.kind() == StoreErrorKind::Unavailable && error.is_retryable(), "{error}");
    }
    disk.full.store(false, Ordering::SeqCst);
    // It is opened anew by itself.
    assert_eq!(block_on(store.insert(&claim(30), now())).unwrap(), Inserted::Claimed);
    for number in (0..20).chain([30]) {
        assert!(block_on(store.lookup(&id(number), now())).unwrap().is_some(), "{number}");
    }
    // Whether one that failed was applied is not known; by its owner it can be repeated.
    assert_eq!(block_on(store.insert(&claim(20), now())).unwrap(), Inserted::Claimed);
}

/// A disk on which no file can grow.
#[derive(Debug, Clone)]
struct Small(Arc<InMemoryBackend>, Arc<AtomicBool>);

impl StorageBackend for Small {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        match self.1.load(Ordering::SeqCst) && len > self.0.len()? {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => self.0.set_len(len),
        }
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}

/// Each opening is a repair, which takes the longer the larger the file is, and nobody can read meanwhile.
#[test]
fn a_disk_that_stays_full_is_not_opened_anew_for_each_call() {
    let (disk, openings) =
        (Small(Arc::new(InMemoryBackend::new()), Arc::default()), Arc::new(AtomicU64::new(0)));
    let (opened, count) = (disk.clone(), openings.clone());
    let open = move || {
        count.fetch_add(1, Ordering::SeqCst);
        opened.clone()
    };
    let store = RedbStore::on(Disk::open_on(RedbConfig::new("in memory"), HOUR, open).unwrap()).unwrap();
    block_on(store.insert(&claim(1), now())).unwrap();
    let mut large = block_on(store.lookup(&id(1), now())).unwrap().unwrap();
    large.state = State::Completed(vec![7; 8 << 20].into());
    disk.1.store(true, Ordering::SeqCst);
    for number in 2..20 {
        let error = block_on(store.restore(&id(number), &large, now())).unwrap_err();
        assert!(error.kind() == StoreErrorKind::Full && error.was_not_applied(), "{number}: {error}");
        assert!(block_on(store.lookup(&id(1), now())).unwrap().is_some(), "it can be read all the time");
    }
    let openings = openings.load(Ordering::SeqCst);
    assert_eq!(openings, 3, "at first, and after each of two failures; then it rests");
}

#[test]
fn a_file_that_is_gone_or_another_one_is_not_taken_for_an_empty_store() {
    for other in [false, true] {
        let (folder, path) = folder();
        let disk = Disk::open(RedbConfig::new(&path)).unwrap();
        fs::rename(&path, folder.path().join("aside")).unwrap();
        if other {
            drop(RedbStore::open(&path).unwrap());
            edit(&path, |txn| set_schema(txn, 1));
        }
        assert!(disk.reopen().is_err());
        assert_eq!(path.exists(), other, "nothing was made");
        if other {
            edit(&path, |txn| {
                let meta = txn.open_table(META).unwrap();
                assert_eq!(meta.get("schema").unwrap().unwrap().value(), 1_u32.to_le_bytes(), "nor changed");
            });
        }
        // Put back it is the store again.
        fs::rename(folder.path().join("aside"), &path).unwrap();
        disk.reopen().unwrap();
    }
}

#[test]
fn a_database_of_something_else_is_refused_and_left_as_it_is() {
    let (_folder, path) = folder();
    let database = redb::Database::create(&path).unwrap();
    let theirs: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("theirs");
    let txn = database.begin_write().unwrap();
    txn.open_table(theirs).unwrap().insert("precious", 1).unwrap();
    txn.commit().unwrap();
    drop(database);
    refused(&path, StoreErrorKind::Misconfigured, "a database of something else");
    let database = redb::Database::open(&path).unwrap();
    assert_eq!(database.begin_write().unwrap().list_tables().unwrap().count(), 1);
}

/// Root may write everywhere, so this is tried by nobody, on a thread of his own.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_may_not_be_written_to_is_a_clear_error() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let by_nobody = thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        }
        refused(path.clone(), StoreErrorKind::Misconfigured, "cannot be opened: Permission denied");
        assert!(!path.exists());
    });
    by_nobody.join().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = folder();
    let _store = RedbStore::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
