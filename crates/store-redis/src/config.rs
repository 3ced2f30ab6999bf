use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use idempotency_core::{Durability, StoreError, Survives};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisFuture, RedisResult,
    cluster::ClusterClient,
    io::{AsyncDNSResolver, tcp::TcpSettings},
};
use url::Url;

use crate::{
    error::{misconfigured, store_error},
    slots::Node,
};

/// Where a [`RedisStore`](crate::RedisStore) keeps its records, and how.
///
/// ```
/// use idempotency_core::{Durability, Survives};
/// use idempotency_store_redis::RedisConfig;
///
/// // A server of one's own, which keeps what it acknowledges.
/// let config = RedisConfig::new("redis://payments:secret@127.0.0.1/0")
///     .prefix("payments:")
///     .durability(Durability::new(Survives::PowerLoss, 0));
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct RedisConfig {
    pub(crate) urls: Vec<String>,
    pub(crate) is_cluster: bool,
    pub(crate) prefix: String,
    pub(crate) call_limit: Duration,
    pub(crate) durability: Durability,
    pub(crate) replica_connections: usize,
    pub(crate) allow_plaintext: bool,
    #[cfg(feature = "tls")]
    root_certificate: Option<Vec<u8>>,
}

impl RedisConfig {
    /// One server, or the primary of several: `redis://user:password@host:port/database`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            is_cluster: false,
            prefix: "idempotency:".to_owned(),
            call_limit: Duration::from_secs(1),
            durability: Durability::default(),
            replica_connections: 4,
            allow_plaintext: false,
            #[cfg(feature = "tls")]
            root_certificate: None,
        }
    }

    /// A cluster, of which these nodes are asked for the others.
    pub fn cluster<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        let urls = urls.into_iter().map(Into::into).collect();
        Self { urls, is_cluster: true, ..Self::new("") }
    }

    /// A URL with options behind it: `redis://host?prefix=payments:&durability=power_loss`.
    ///
    /// | option | |
    /// | --- | --- |
    /// | `prefix` | [`prefix`](Self::prefix) |
    /// | `durability` | `memory`, `process_crash` or `power_loss` |
    /// | `replicas` | how many must have acknowledged it |
    /// | `cluster` | `true`: the other nodes are asked for |
    /// | `call_limit_ms` | [`call_limit`](Self::call_limit) |
    /// | `allow_plaintext` | `true`: also to another machine |
    ///
    /// ```
    /// use idempotency_store_redis::RedisConfig;
    ///
    /// assert!(RedisConfig::from_url("redis://127.0.0.1?durability=power_loss&replicas=1").is_ok());
    /// assert!(RedisConfig::from_url("redis://127.0.0.1?durabillity=power_loss").is_err());
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
        let mut config = Self::new(url);
        for (name, value) in options {
            let wrong = || misconfigured(format!("the option `{name}` cannot be `{value}`"));
            match name.as_str() {
                "prefix" => config.prefix = value,
                "durability" => config.durability.local = Survives::from_name(&value).ok_or_else(wrong)?,
                "replicas" => config.durability.replicas = value.parse().map_err(|_| wrong())?,
                "cluster" => config.is_cluster = value.parse().map_err(|_| wrong())?,
                "call_limit_ms" => {
                    config.call_limit = Duration::from_millis(value.parse().map_err(|_| wrong())?);
                }
                "allow_plaintext" => config.allow_plaintext = value.parse().map_err(|_| wrong())?,
                // Not which one: behind a `?` in a password that was not escaped stands the rest of it.
                _ => return Err(misconfigured("the URL has an option that this store does not know")),
            }
        }
        config.nodes().map(|_| config)
    }

    /// What every key begins with: `idempotency:`. Two trackers with one prefix are one.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long one call may take: 1 s; below the tracker's own limit, so that the error says what it was.
    #[must_use]
    pub fn call_limit(mut self, call_limit: Duration) -> Self {
        self.call_limit = call_limit;
        self
    }

    /// What an acknowledged write survives. It is verified at `setup`:
    ///
    /// * `Survives::Memory` (the default): nothing is asked of the server.
    /// * `ProcessCrash` and `PowerLoss`: `appendonly yes` and `appendfsync always`. With `everysec` the server puts off its
    ///   writes for up to two seconds while it syncs, so that also `kill -9` of the server loses acknowledged ones.
    /// * `replicas`: so many replicas must have acknowledged each claim and each result (`WAIT`).
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many connections to each primary share the waiting for replicas: 4. Calls of one moment go together on one of them,
    /// and what comes while all of them wait makes the next groups.
    #[must_use]
    pub fn replica_connections(mut self, connections: usize) -> Self {
        self.replica_connections = connections;
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

    /// For a node that a cluster has said.
    pub(crate) fn client_of(&self, (host, port): &Node) -> Result<Client, StoreError> {
        let [first, ..] = &self.nodes()?[..] else { return Err(misconfigured(NO_NODE)) };
        let mut address = first.addr().clone();
        match &mut address {
            ConnectionAddr::Tcp(of, at) | ConnectionAddr::TcpTls { host: of, port: at, .. } => {
                (*of, *at) = (host.clone(), *port);
            }
            _ => return Err(misconfigured(NO_SENSE)),
        }
        self.client(self.checked(first.clone().set_addr(address))?).map_err(store_error)
    }

    /// Where the first of a cluster's nodes is.
    pub(crate) fn first_host(&self) -> Option<String> {
        match self.nodes().ok()?.into_iter().next()?.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
            _ => None,
        }
    }

    /// One client for each node that is known.
    pub(crate) fn clients(&self) -> Result<Vec<Client>, StoreError> {
        self.nodes()?
            .into_iter()
            .map(|node| self.client(node))
            .collect::<RedisResult<_>>()
            .map_err(store_error)
    }

    #[cfg(feature = "tls")]
    fn client(&self, node: ConnectionInfo) -> RedisResult<Client> {
        match (&self.root_certificate, node.addr()) {
            (Some(_), ConnectionAddr::TcpTls { .. }) => Client::build_with_tls(node, self.certificates()),
            _ => Client::open(node),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn client(&self, node: ConnectionInfo) -> RedisResult<Client> {
        let _ = self;
        Client::open(node)
    }

    #[cfg(feature = "tls")]
    fn certificates(&self) -> redis::TlsCertificates {
        redis::TlsCertificates { client_tls: None, root_cert: self.root_certificate.clone() }
    }

    pub(crate) fn cluster_client(&self) -> Result<ClusterClient, StoreError> {
        let client = ClusterClient::builder(self.nodes()?)
            .tcp_settings(self.tcp_settings())
            .async_dns_resolver(Resolver { only_here: self.is_plaintext_kept_here() })
            .connection_timeout(self.call_limit)
            .response_timeout(self.call_limit)
            .overall_response_timeout(Some(self.call_limit));
        #[cfg(feature = "tls")]
        let client = match self.root_certificate {
            Some(_) => client.certs(self.certificates()),
            None => client,
        };
        client.build().map_err(store_error)
    }

    /// Where to connect to, or what makes no sense.
    fn nodes(&self) -> Result<Vec<ConnectionInfo>, StoreError> {
        if self.urls.is_empty() {
            return Err(misconfigured(NO_NODE));
        }
        if self.call_limit.is_zero() || self.replica_connections == 0 {
            return Err(misconfigured("a limit of nothing lets no call succeed"));
        }
        // The error of the client would say the whole of it, with its password.
        let parsed = |url: &String| url.as_str().into_connection_info().map_err(|_| misconfigured(NO_SENSE));
        let nodes: Vec<_> = self.urls.iter().map(parsed).collect::<Result<_, _>>()?;
        let is_encrypted = |node: &ConnectionInfo| matches!(node.addr(), ConnectionAddr::TcpTls { .. });
        if nodes.windows(2).any(|nodes| is_encrypted(&nodes[0]) != is_encrypted(&nodes[1])) {
            return Err(misconfigured("either all nodes are `rediss://`, or none of them"));
        }
        nodes.into_iter().map(|node| self.checked(node)).collect()
    }

    fn checked(&self, node: ConnectionInfo) -> Result<ConnectionInfo, StoreError> {
        match node.addr() {
            ConnectionAddr::Tcp(host, _) if !self.allow_plaintext && !is_here(host) => Err(misconfigured(
                format!("{host} is another machine: use `rediss://`, or `allow_plaintext`"),
            )),
            ConnectionAddr::TcpTls { .. } if !node.addr().is_supported() => {
                Err(store_error((ErrorKind::InvalidClientConfig, "built without the feature `tls`").into()))
            }
            _ => Ok(node.set_tcp_settings(self.tcp_settings())),
        }
    }

    /// A cluster says by itself where its nodes are, and that may be another machine.
    fn is_plaintext_kept_here(&self) -> bool {
        let is_encrypted = |url: &String| {
            let node = url.as_str().into_connection_info();
            node.is_ok_and(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. }))
        };
        !self.allow_plaintext && !self.urls.iter().any(is_encrypted)
    }

    /// Small calls are not held back for each other, and a server that is gone without a word is noticed: whatever is not
    /// acknowledged within two calls' time ends the connection.
    fn tcp_settings(&self) -> TcpSettings {
        let settings = TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(self.call_limit * 2);
        settings
    }
}

const NO_NODE: &str = "a cluster needs at least one node to ask";
const NO_SENSE: &str = "the URL of the server makes no sense";

fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Finds the addresses of a cluster's nodes.
struct Resolver {
    /// What would travel unencrypted does not leave this machine.
    only_here: bool,
}

impl AsyncDNSResolver for Resolver {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let mut found: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
            if self.only_here {
                found.retain(|address| address.ip().is_loopback());
            }
            if found.is_empty() {
                let reason = "the cluster leads to another machine: use `rediss://`, or `allow_plaintext`";
                return Err((ErrorKind::InvalidClientConfig, reason).into());
            }
            Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

/// Without users and passwords.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |url: &String| match url.as_str().into_connection_info() {
            Ok(node) => node.addr().to_string(),
            Err(_) => "?".to_owned(),
        };
        f.debug_struct("RedisConfig")
            .field("nodes", &self.urls.iter().map(at).collect::<Vec<_>>())
            .field("is_cluster", &self.is_cluster)
            .field("prefix", &self.prefix)
            .field("call_limit", &self.call_limit)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}

impl From<&str> for RedisConfig {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_would_travel_unencrypted_to_a_node_elsewhere_finds_no_address() {
        for (host, only_here, is_found) in
            [("127.0.0.1", true, true), ("192.0.2.1", true, false), ("192.0.2.1", false, true)]
        {
            let resolver = Resolver { only_here };
            let found = resolver.resolve(host, 6379).await.map(|mut addresses| addresses.next());
            assert_eq!(found.is_ok_and(|first| first.is_some()), is_found, "{host}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn an_encrypted_cluster_is_not_kept_here() {
        let config = RedisConfig::cluster(["rediss://redis.example"]);
        assert!(!config.is_plaintext_kept_here());
        assert!(RedisConfig::cluster(["redis://127.0.0.1"]).is_plaintext_kept_here());
        let mixed = RedisConfig::cluster(["redis://127.0.0.1", "rediss://127.0.0.1"]);
        assert_eq!(mixed.nodes().unwrap_err().kind(), idempotency_core::StoreErrorKind::Misconfigured);
    }
}
