//! The way to the servers: calls of all callers share a connection and go one behind the other without waiting.

use std::time::Duration;

use idempotency_core::{StoreError, StoreErrorKind};
use redis::{
    Client, Cmd, RedisResult, Value,
    aio::ConnectionLike,
    cluster_async::ClusterConnection,
    cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo, Slot},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    RedisConfig,
    error::{is_unknown_script, of_cluster, redirection, store_error, unexpected},
    line::Line,
    scripts::Step,
    slots::{Node, Slots},
    waits::{Acknowledged, Waits},
};

/// Before a call is sent again to a cluster whose nodes do not agree on who has its slot.
const REST: Duration = Duration::from_millis(10);

pub(crate) struct Link {
    ways: Ways,
    /// One call.
    limit: Duration,
}

enum Ways {
    Server { line: Line, waits: Option<Waits> },
    Cluster { cluster: ClusterConnection, slots: Slots, waits: bool },
}

impl Link {
    /// Connects when it is first used.
    pub(crate) fn new(config: &RedisConfig, client: Client) -> Result<Self, StoreError> {
        let waits = config.durability.replicas > 0;
        let ways = if config.is_cluster {
            let settings = redis::cluster::ClusterConfig::new();
            Ways::Cluster {
                cluster: config.cluster_client()?.get_pending_async_connection_with_config(settings),
                slots: Slots::new(config),
                waits,
            }
        } else {
            Ways::Server {
                waits: waits.then(|| Waits::start(client.clone(), config)),
                line: Line::new(client, config.call_limit).map_err(store_error)?,
            }
        };
        Ok(Self { ways, limit: config.call_limit })
    }

    /// Connects once and at once: an attempt that is repeated in the background does not say why it fails. Of a cluster it is
    /// asked where its nodes are.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        match &self.ways {
            Ways::Server { line, .. } => line.connect(self.deadline()).await,
            Ways::Cluster { cluster, slots, .. } => slots.check(read_slots(cluster, self.deadline()).await?),
        }
    }

    /// The server turned out to be another one than it should be; perhaps the address leads elsewhere by now.
    pub(crate) fn renew(&self) {
        if let Ways::Server { line, .. } = &self.ways {
            line.renew();
        }
    }

    /// Of a call that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// One command, to the server that its key is on.
    pub(crate) async fn send(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.send_until(command, self.deadline()).await
    }

    async fn send_until(&self, command: &Cmd, deadline: Instant) -> Result<Value, StoreError> {
        match &self.ways {
            Ways::Server { line, .. } => line.send(command, deadline).await,
            Ways::Cluster { cluster, .. } => {
                of_node(cluster.clone().req_packed_command(command), deadline).await
            }
        }
    }

    /// One script on one key, in one round trip. A server that does not know it (it is new, or was just promoted) is sent the
    /// whole of it.
    pub(crate) async fn run(&self, step: &Step, key: &[u8], args: &[&[u8]]) -> Result<Value, StoreError> {
        self.run_until(step, key, args, self.deadline()).await
    }

    /// The same, with what is left of a call's time.
    pub(crate) async fn run_until(
        &self,
        step: &Step,
        key: &[u8],
        args: &[&[u8]],
        deadline: Instant,
    ) -> Result<Value, StoreError> {
        match self.send_until(&of_hash(step, key, args), deadline).await {
            Err(error) if is_unknown_script(&error) => {
                self.send_until(&of_source(step, key, args), deadline).await
            }
            answer => answer,
        }
    }

    /// The same, and whether enough replicas have what was written, if any are asked for.
    pub(crate) async fn run_and_wait(
        &self,
        step: &Step,
        key: &[u8],
        args: &[&[u8]],
        deadline: Instant,
    ) -> Result<(Value, Acknowledged), StoreError> {
        if !self.waits() {
            return Ok((self.run_until(step, key, args, deadline).await?, Acknowledged(true)));
        }
        // In boxes: what does not wait must not carry their room about.
        match Box::pin(self.send_and_wait(key, of_hash(step, key, args), deadline)).await {
            Err(error) if is_unknown_script(&error) => {
                Box::pin(self.send_and_wait(key, of_source(step, key, args), deadline)).await
            }
            answer => answer,
        }
    }

    /// The way to a single server of which no replicas are waited for.
    pub(crate) fn alone(&self) -> Option<&Line> {
        match &self.ways {
            Ways::Server { line, waits: None } => Some(line),
            Ways::Server { .. } | Ways::Cluster { .. } => None,
        }
    }

    fn waits(&self) -> bool {
        match &self.ways {
            Ways::Server { waits, .. } => waits.is_some(),
            Ways::Cluster { waits, .. } => *waits,
        }
    }

    /// In a cluster, with the primary that has the key, also if that is another one by now.
    async fn send_and_wait(
        &self,
        key: &[u8],
        command: Cmd,
        deadline: Instant,
    ) -> Result<(Value, Acknowledged), StoreError> {
        let (cluster, slots) = match &self.ways {
            Ways::Server { waits: Some(waits), .. } => return waits.call(command, false, deadline).await,
            Ways::Server { waits: None, .. } => return Err(unexpected()),
            Ways::Cluster { cluster, slots, .. } => (cluster, slots),
        };
        let slot = Slot::for_key(key);
        let mut since = None;
        loop {
            let waits = slots.waits_of(slot, since, read_slots(cluster, deadline));
            let waits = until(deadline, waits).await??;
            let error = match waits.call(command.clone(), false, deadline).await {
                Err(error) => error,
                answer => return answer,
            };
            match redirection(&error) {
                Some(((host, port), true)) => {
                    let host = if host.is_empty() { slots.host_of(slot) } else { Some(host) };
                    let node = (host.ok_or_else(unexpected)?, port);
                    return slots.waits_at(node.into())?.call(command, true, deadline).await;
                }
                Some((_, false)) if Instant::now() + REST < deadline => sleep(REST).await,
                // Whoever repeats it finds out who has the slot by now.
                _ => {
                    slots.forget();
                    return Err(error);
                }
            }
            since = Some(Instant::now());
        }
    }

    /// The same command to every primary.
    pub(crate) async fn of_all(&self, command: Cmd) -> Result<Vec<Value>, StoreError> {
        let Ways::Cluster { cluster, .. } = &self.ways else { return Ok(vec![self.send(&command).await?]) };
        let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        match of_node(cluster.clone().route_command(command, everywhere), self.deadline()).await? {
            Value::Map(of_nodes) => Ok(of_nodes.into_iter().map(|(_, value)| value).collect()),
            _ => Err(unexpected()),
        }
    }

    /// A command to one node of a cluster; of a single server to that.
    pub(crate) async fn send_to(&self, node: Option<&Node>, command: Cmd) -> Result<Value, StoreError> {
        let (Ways::Cluster { cluster, .. }, Some(node)) = (&self.ways, node) else {
            return self.send(&command).await;
        };
        let route = SingleNodeRoutingInfo::ByAddress { host: node.0.clone(), port: node.1 };
        let mut cluster = cluster.clone();
        of_node(cluster.route_command(command, RoutingInfo::SingleNode(route)), self.deadline()).await
    }

    /// The primaries of a cluster, in an order of their own, and a number that says which slots they have; nothing for a single
    /// server.
    pub(crate) async fn primaries(&self) -> Result<(Vec<Node>, u64), StoreError> {
        let Ways::Cluster { cluster, slots, .. } = &self.ways else { return Ok((Vec::new(), 0)) };
        slots.primaries(read_slots(cluster, self.deadline()).await?)
    }
}

async fn read_slots(cluster: &ClusterConnection, deadline: Instant) -> Result<Value, StoreError> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let anybody = RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random);
    of_node(cluster.clone().route_command(command, anybody), deadline).await
}

/// An answer that is an error is an error. The client may have sent a call more than once: what became of the first is not
/// certain.
async fn of_node(
    call: impl Future<Output = RedisResult<Value>>,
    deadline: Instant,
) -> Result<Value, StoreError> {
    until(deadline, async { call.await?.extract_error() }).await?.map_err(of_cluster)
}

/// Not longer than until then.
pub(crate) async fn until<T>(deadline: Instant, call: impl Future<Output = T>) -> Result<T, StoreError> {
    let late = |_| StoreError::new(StoreErrorKind::TimedOut, "the server did not answer in time");
    timeout_at(deadline, call).await.map_err(late)
}

pub(crate) fn of_hash(step: &Step, key: &[u8], args: &[&[u8]]) -> Cmd {
    script("EVALSHA", &step.hash, key, args)
}

fn of_source(step: &Step, key: &[u8], args: &[&[u8]]) -> Cmd {
    script("EVAL", &step.source, key, args)
}

fn script(name: &str, script: &str, key: &[u8], args: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(1).arg(key).arg(args);
    command
}
