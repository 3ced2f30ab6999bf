use std::time::{Duration, Instant};

use super::{
    Redis,
    guard::free_port,
    wait::{now, wait_until},
};

/// A cluster of primaries.
///
/// ```no_run
/// use idempotency_store_testkit::servers::RedisCluster;
///
/// let cluster = RedisCluster::start(3);
/// println!("{:?}", cluster.urls());
/// ```
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    replicas: Vec<Redis>,
}

const SLOTS: usize = 16384;

/// When servers have surely dropped a fail-over that did not come about.
const FAIL_OVER_LIMIT: Duration = Duration::from_secs(6);

impl RedisCluster {
    /// Starts so many nodes, which share the slots among them, and waits until they agree.
    ///
    /// # Panics
    ///
    /// They do not start, or do not agree.
    pub fn start(nodes: usize) -> Self {
        let nodes: Vec<Redis> = (0..nodes).map(|_| node()).collect();
        for (number, node) in nodes.iter().enumerate() {
            let (from, to) = (number * SLOTS / nodes.len(), (number + 1) * SLOTS / nodes.len() - 1);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            // Otherwise two of them may want to have the same epoch for a while.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
        }
        nodes[1..].iter().for_each(|node| meet(&nodes[0], node));
        let known = format!("cluster_known_nodes:{}", nodes.len());
        for node in &nodes {
            wait_until("a cluster that agrees", || {
                let info = node.command(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains(&known) && info.contains("slots_ok:16384")
            });
        }
        Self { nodes, replicas: Vec::new() }
    }

    /// Gives each primary a replica; returns when they are in step.
    ///
    /// # Panics
    ///
    /// They do not start, or are not in step.
    pub fn with_replicas(mut self) -> Self {
        for primary in &self.nodes {
            let replica = node();
            meet(primary, &replica);
            let id = primary.command(&["CLUSTER", "MYID"]);
            wait_until("a replica that knows its primary", || {
                replica.try_command(&["CLUSTER", "REPLICATE", &id])
            });
            wait_until("a replica in step", || {
                primary.command(&["INFO", "replication"]).contains("state=online")
                    && replica.command(&["INFO", "replication"]).contains("link_status:up")
            });
            self.replicas.push(replica);
        }
        // One that only knows that they are there refuses them its vote when they are to take over.
        let replicas: Vec<_> = self
            .replicas
            .iter()
            .zip(&self.nodes)
            .map(|(replica, primary)| [replica, primary].map(|node| node.command(&["CLUSTER", "MYID"])))
            .collect();
        wait_until("a cluster that knows its replicas", || {
            self.nodes.iter().chain(&self.replicas).all(|node| {
                let nodes = node.command(&["CLUSTER", "NODES"]);
                replicas.iter().all(|[replica, primary]| {
                    let line = nodes.lines().find(|line| line.starts_with(replica));
                    line.and_then(|line| line.split(' ').nth(3)) == Some(primary)
                })
            })
        });
        self
    }

    /// One for each primary, in the same order.
    pub fn replicas(&self) -> &[Redis] {
        &self.replicas
    }

    /// The replica of one primary becomes it, while the former one lives on as its replica; returns when all know.
    ///
    /// # Panics
    ///
    /// It does not.
    pub fn fail_over(&self, number: usize) {
        let replica = &self.replicas[number];
        let id = replica.command(&["CLUSTER", "MYID"]);
        let mut asked: Option<Instant> = None;
        wait_until("a replica that has taken over", || {
            // The servers drop it silently if they do not agree within five seconds, as on a machine that is busy.
            if asked.is_none_or(|at| at.elapsed() > FAIL_OVER_LIMIT) {
                replica.command(&["CLUSTER", "FAILOVER"]);
                asked = Some(now());
            }
            self.nodes.iter().all(|node| {
                let nodes = node.command(&["CLUSTER", "NODES"]);
                let line = nodes.lines().find(|line| line.starts_with(&id));
                line.is_some_and(|line| line.contains("master"))
            })
        });
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot")
    }

    /// Which of the nodes had a slot when they started.
    pub fn first_owner_of(&self, slot: u16) -> usize {
        (0..self.nodes.len())
            .rfind(|number| number * SLOTS / self.nodes.len() <= usize::from(slot))
            .unwrap_or(0)
    }

    /// Moves all keys of a slot to another primary, one by one, while clients go on; `between` is called in the middle of it,
    /// when the slot belongs to both. The keys must be text in one line.
    ///
    /// # Panics
    ///
    /// They do not move.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize, between: impl FnOnce()) {
        let slot = slot.to_string();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let [of_source, of_target] = [source, target].map(|node| node.command(&["CLUSTER", "MYID"]));
        target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &of_source]);
        source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &of_target]);
        between();
        let port = target.port().to_string();
        let keys = source.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "10000"]);
        for key in keys.split('\n').filter(|key| !key.is_empty()) {
            source.command(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
        }
        for node in [target, source] {
            node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &of_target]);
        }
    }

    /// Where clients find them.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// One by one.
    pub fn nodes(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }
}

fn node() -> Redis {
    let bus = free_port().to_string();
    // A replica that takes over by itself would make a test a matter of luck.
    Redis::start(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-replica-no-failover",
        "yes",
    ])
}

fn meet(one: &Redis, other: &Redis) {
    let bus = other.command(&["CONFIG", "GET", "cluster-port"]);
    let bus = bus.lines().last().expect("its value");
    one.command(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string(), bus]);
}
