use std::{fmt, net::IpAddr, time::Duration};

use idempotency_core::{Durability, StoreError, Survives};
use tokio_postgres::config::{Host, SslMode};
use url::Url;

use crate::error::misconfigured;

/// Where a [`PostgresStore`](crate::PostgresStore) keeps its records, and how.
///
/// ```
/// use idempotency_store_postgres::PostgresConfig;
///
/// let config = PostgresConfig::new("postgres://payments:s3cr3t@127.0.0.1/payments").schema("billing");
/// assert!(!format!("{config:?}").contains("s3cr3t"));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresConfig {
    url: String,
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) durability: Durability,
    pub(crate) connections: usize,
    pub(crate) transactions: usize,
    pub(crate) call_limit: Duration,
    pub(crate) migrates: bool,
    allow_plaintext: bool,
    #[cfg(feature = "tls")]
    pub(crate) root_certificate: Option<Vec<u8>>,
}

impl PostgresConfig {
    /// `postgres://user:password@host:port/database`, with the options of libpq behind it.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            schema: "idempotency".to_owned(),
            table: "records".to_owned(),
            durability: Durability::new(Survives::PowerLoss, 0),
            connections: 8,
            transactions: 8,
            call_limit: Duration::from_secs(1),
            migrates: true,
            allow_plaintext: false,
            #[cfg(feature = "tls")]
            root_certificate: None,
        }
    }

    /// A URL with options of this store among those of libpq: `postgres://host/database?schema=billing&replicas=1`.
    ///
    /// | option | |
    /// | --- | --- |
    /// | `schema`, `table` | [`schema`](Self::schema), [`table`](Self::table) |
    /// | `durability` | `memory`, `process_crash` or `power_loss` |
    /// | `replicas` | how many standbys must have acknowledged it |
    /// | `call_limit_ms` | [`call_limit`](Self::call_limit) |
    /// | `migrates` | `false`: somebody else prepares the tables |
    /// | `allow_plaintext` | `true`: also to another machine |
    ///
    /// ```
    /// use idempotency_store_postgres::PostgresConfig;
    ///
    /// assert!(PostgresConfig::from_url("postgres://127.0.0.1/payments?durability=process_crash").is_ok());
    /// assert!(PostgresConfig::from_url("postgres://127.0.0.1/payments?durabillity=process_crash").is_err());
    /// ```
    ///
    /// # Errors
    ///
    /// `Misconfigured`: it makes no sense, or has an option that there is not.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let mut url = Url::parse(url).map_err(|_| misconfigured(NO_SENSE))?;
        let options: Vec<(String, String)> =
            url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        url.set_query(None);
        let mut config = Self::new("");
        for (name, value) in options {
            let wrong = || misconfigured(format!("the option `{name}` cannot be `{value}`"));
            match name.as_str() {
                "schema" => config.schema = value,
                "table" => config.table = value,
                "durability" => config.durability.local = Survives::from_name(&value).ok_or_else(wrong)?,
                "replicas" => config.durability.replicas = value.parse().map_err(|_| wrong())?,
                "call_limit_ms" => {
                    config.call_limit = Duration::from_millis(value.parse().map_err(|_| wrong())?);
                }
                "migrates" => config.migrates = value.parse().map_err(|_| wrong())?,
                "allow_plaintext" => config.allow_plaintext = value.parse().map_err(|_| wrong())?,
                // One of libpq's, or a mistake, which the driver knows.
                _ => drop(url.query_pairs_mut().append_pair(&name, &value)),
            }
        }
        if let Some(query) = url.query() {
            // The driver takes a plus for one.
            let query = query.replace('+', "%20");
            url.set_query(Some(&query));
        }
        config.url = url.into();
        config.driver().map(|_| config)
    }

    /// The schema of the tables: `idempotency`. Made if it is not there. Lower case letters, digits and `_`.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// The table of the records: `records`. The others are named after it. Two trackers with one table are one.
    #[must_use]
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.table = table.into();
        self
    }

    /// What an acknowledged write survives: a loss of power, unless said otherwise. It is verified on each connection:
    ///
    /// * `ProcessCrash`: `synchronous_commit` is not `off`.
    /// * `PowerLoss`: that, and `fsync` and `full_page_writes` are `on`.
    /// * `replicas`: `synchronous_standby_names` asks for so many, so many are there, and `synchronous_commit` waits for
    ///   them (`on`, `remote_write` or `remote_apply`).
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many connections the calls of the tracker share: 8, for the three batches of claims and of results that it has under
    /// way at most.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How many transactions ([`transact`](crate::PostgresStore::transact)) run at most at once, each on a connection of its
    /// own: 8. Further ones wait for their turn.
    #[must_use]
    pub fn transactions(mut self, transactions: usize) -> Self {
        self.transactions = transactions;
        self
    }

    /// How long one call may take: 1 s; below the tracker's own limit, so that the error says what it was. The body of a
    /// transaction is not bounded by it.
    #[must_use]
    pub fn call_limit(mut self, call_limit: Duration) -> Self {
        self.call_limit = call_limit;
        self
    }

    /// Whether `setup` makes and changes the tables: yes. Otherwise somebody with more rights calls
    /// [`migrate`](crate::PostgresStore::migrate) before.
    #[must_use]
    pub fn migrates(mut self, migrates: bool) -> Self {
        self.migrates = migrates;
        self
    }

    /// Lets passwords and responses travel unencrypted to another machine. Off: only to this one.
    #[must_use]
    pub fn allow_plaintext(mut self, allow: bool) -> Self {
        self.allow_plaintext = allow;
        self
    }

    /// Trusts only servers with a certificate below this one, in PEM. Otherwise those that the system trusts.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// The driver's own configuration, or what makes no sense.
    pub(crate) fn driver(&self) -> Result<tokio_postgres::Config, StoreError> {
        // The error of the driver would say parts of the URL.
        let mut driver: tokio_postgres::Config = self.url.parse().map_err(|_| misconfigured(NO_SENSE))?;
        if driver.get_hosts().is_empty() {
            return Err(misconfigured("the URL names no host"));
        }
        if self.call_limit.is_zero() || self.connections == 0 || self.transactions == 0 {
            return Err(misconfigured("a limit of nothing lets no call succeed"));
        }
        for name in [&self.schema, &self.table] {
            check_name(name)?;
        }
        let is_encrypted = driver.get_ssl_mode() == SslMode::Require;
        if is_encrypted && cfg!(not(feature = "tls")) {
            return Err(misconfigured("built without the feature `tls`"));
        }
        for host in driver.get_hosts() {
            if let Host::Tcp(host) = host
                && !(is_encrypted || self.allow_plaintext || is_here(host))
            {
                let message =
                    format!("{host} is another machine: use `sslmode=require`, or `allow_plaintext`");
                return Err(misconfigured(message));
            }
        }
        let elsewhere = driver.get_hostaddrs().iter().find(|address| !address.is_loopback());
        if let (Some(address), false) = (elsewhere, is_encrypted || self.allow_plaintext) {
            let message =
                format!("{address} is another machine: use `sslmode=require`, or `allow_plaintext`");
            return Err(misconfigured(message));
        }
        if driver.get_application_name().is_none() {
            driver.application_name("idempotency");
        }
        if driver.get_connect_timeout().is_none() {
            driver.connect_timeout(self.call_limit);
        }
        if driver.get_tcp_user_timeout().is_none() {
            // A server that is gone without a word is noticed.
            driver.tcp_user_timeout(self.call_limit * 2);
        }
        if driver.get_keepalives_idle() >= Duration::from_secs(2 * 60 * 60) {
            // Also one that took everything before.
            driver.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2));
            driver.keepalives_retries(3);
        }
        Ok(driver)
    }
}

const NO_SENSE: &str = "the URL of the server makes no sense";

/// The longest suffix that is put behind a name is `_settled`, and PostgreSQL cuts names off after 63 bytes.
const LONGEST_NAME: usize = 48;

/// What needs no quotes in SQL and cannot end them.
fn check_name(name: &str) -> Result<(), StoreError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
    if begins && name.len() <= LONGEST_NAME && name.bytes().all(is_plain) {
        return Ok(());
    }
    let rule = format!("lower case letters, digits and `_`, at most {LONGEST_NAME} of them");
    Err(misconfigured(format!("`{}` is no name of a table or schema: {rule}", name.escape_debug())))
}

fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Without users and passwords.
impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.url.parse::<tokio_postgres::Config>().ok();
        f.debug_struct("PostgresConfig")
            .field("hosts", &driver.as_ref().map(tokio_postgres::Config::get_hosts))
            .field("database", &driver.as_ref().and_then(tokio_postgres::Config::get_dbname))
            .field("schema", &self.schema)
            .field("table", &self.table)
            .field("durability", &self.durability)
            .field("call_limit", &self.call_limit)
            .finish_non_exhaustive()
    }
}

impl From<&str> for PostgresConfig {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}
